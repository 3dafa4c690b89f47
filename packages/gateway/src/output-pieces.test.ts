import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { MAX_PIECE_BYTES, type OutputPiece, outputCutter } from './output-pieces.ts'

const cutAll = (chunks: Uint8Array[]): OutputPiece[] => {
  const cutter = outputCutter()
  const pieces = chunks.flatMap((chunk) => [...cutter.cut(chunk)].map((piece) => ({ ...piece })))
  const rest = cutter.rest()
  return rest ? [...pieces, rest] : pieces
}
const joined = (pieces: OutputPiece[]): Buffer => Buffer.concat(pieces.map(({ bytes }) => bytes))

test('never splits a character, wherever the chunks end', () => {
  const text = 'aé漢🎉z'
  const bytes = Buffer.from(text)
  for (let first = 0; first <= bytes.length; first++)
    for (let second = first; second <= bytes.length; second++) {
      const pieces = cutAll([bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)])
      expect(pieces.every((piece) => piece.text)).toBe(true)
      expect(joined(pieces).toString()).toBe(text)
    }
})

test('calls bytes that are not UTF-8, and a NUL, not text', () => {
  expect(cutAll([Buffer.from([0xff, 0xfe, 0x41])])).toMatchObject([{ text: false }])
  expect(cutAll([Buffer.from('a\0b')])).toMatchObject([{ text: false }])
  expect(cutAll([Buffer.from('plain\n')])).toMatchObject([{ text: true }])
})

test('gives half a character at the end as bytes', () => {
  const pieces = cutAll([Buffer.from('ok'), Buffer.from('漢').subarray(0, 2)])
  expect(pieces.map(({ text }) => text)).toEqual([true, false])
  expect(joined(pieces)).toEqual(Buffer.concat([Buffer.from('ok'), Buffer.from('漢').subarray(0, 2)]))
})

test('cuts a large chunk into bounded pieces and loses no byte', () => {
  const text = Buffer.from('漢字🎉 and more '.repeat(20_000))
  const pieces = cutAll([text])
  expect(pieces.every((piece) => piece.text && piece.bytes.length <= MAX_PIECE_BYTES)).toBe(true)
  expect(joined(pieces).equals(text)).toBe(true)
  const noise = randomBytes(3 * MAX_PIECE_BYTES + 1)
  expect(joined(cutAll([noise.subarray(0, 7), noise.subarray(7)])).equals(noise)).toBe(true)
})
