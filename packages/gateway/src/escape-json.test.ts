import { expect, test } from 'vitest'
import { escapeJson, MAX_ESCAPED_BYTES } from './escape-json.ts'

const escaped = (source: Buffer): string => {
  const offset = 3
  const target = Buffer.alloc(offset + source.length * MAX_ESCAPED_BYTES)
  return target.toString('utf8', offset, escapeJson(source, target, offset))
}

test('writes what JSON.stringify writes, at every alignment', () => {
  const texts = [
    '',
    'a',
    'plain text of some length',
    '"\\\b\f\n\r\t',
    '\u0001\u001f\u007f',
    'é漢🎉',
    'abc"',
    'ab\n漢\\"x',
  ]
  for (const text of texts)
    for (let pad = 0; pad < 5; pad++) {
      const padded = 'x'.repeat(pad) + text
      expect(`"${escaped(Buffer.from(padded))}"`).toBe(JSON.stringify(padded))
    }
})

test('writes every single byte of ASCII, alone and among others, as JSON.stringify does', () => {
  for (let code = 0; code < 128; code++)
    for (const text of [String.fromCharCode(code), `ab${String.fromCharCode(code)}cdefgh`])
      expect(`"${escaped(Buffer.from(text))}"`).toBe(JSON.stringify(text))
})

test('reads a source that begins in the middle of its memory', () => {
  const memory = Buffer.from('....say "hi"\n....')
  expect(escaped(memory.subarray(4, 13))).toBe('say \\"hi\\"\\n')
})
