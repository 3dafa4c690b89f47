import { describe, expect, it } from 'vitest'
import { allocFrame, createFrameReader, dataFrame, FRAME, HEADER_BYTES } from './frames.ts'

const collect = (chunks: Buffer[]): { type: number; channel: number; text: string }[] => {
  const frames: { type: number; channel: number; text: string }[] = []
  const read = createFrameReader((type, channel, payload) => {
    const last = frames.at(-1)
    const output = type === FRAME.stdout || type === FRAME.stderr
    if (output && last?.type === type && last.channel === channel) last.text += payload.toString('latin1')
    else frames.push({ type, channel, text: payload.toString('latin1') })
  })
  for (const chunk of chunks) read(chunk)
  return frames
}

const stream = Buffer.concat([
  dataFrame(FRAME.started, 7, Buffer.from('pid_')),
  dataFrame(FRAME.stdout, 7, Buffer.from('hello')),
  dataFrame(FRAME.pong, 0, Buffer.alloc(0)),
  dataFrame(FRAME.stderr, 0xffff_ffff, Buffer.from('oh')),
  dataFrame(FRAME.failed, 8, Buffer.from('\x02\0\0\0\x05No such file')),
])
const whole = [
  { type: FRAME.started, channel: 7, text: 'pid_' },
  { type: FRAME.stdout, channel: 7, text: 'hello' },
  { type: FRAME.pong, channel: 0, text: '' },
  { type: FRAME.stderr, channel: 0xffff_ffff, text: 'oh' },
  { type: FRAME.failed, channel: 8, text: '\x02\0\0\0\x05No such file' },
]

describe('the frame reader', () => {
  it('finds the same frames however the stream is cut', () => {
    for (let size = 1; size <= stream.length; size++) {
      const chunks: Buffer[] = []
      for (let at = 0; at < stream.length; at += size) chunks.push(stream.subarray(at, at + size))
      expect(collect(chunks)).toEqual(whole)
    }
    for (let cut = 0; cut <= stream.length; cut++)
      expect(collect([stream.subarray(0, cut), stream.subarray(cut)])).toEqual(whole)
  })

  it('hands output on as views of what was read, in pieces where the frame is longer than the chunk', () => {
    const frame = dataFrame(FRAME.stdout, 1, Buffer.alloc(100_000, 1))
    const chunks = [frame.subarray(0, 30_000), frame.subarray(30_000)]
    const pieces: Buffer[] = []
    const read = createFrameReader((_type, _channel, payload) => pieces.push(payload))
    for (const chunk of chunks) read(chunk)
    expect(pieces.map((piece) => piece.length)).toEqual([30_000 - HEADER_BYTES, 70_000 + HEADER_BYTES])
    for (const piece of pieces) expect(piece.buffer).toBe(frame.buffer)
  })

  it('refuses unknown types, bytes that must be zero, and lengths that the type does not have', () => {
    const bad = (frame: Buffer) => expect(() => collect([frame])).toThrow()
    for (const type of [0, FRAME.exec, FRAME.ping, 0x7f, 0x89, 0xff]) bad(allocFrame(type, 1, 0))
    for (const flags of [0x200, 0x300, 0x10000, 0x1000000]) bad(allocFrame(FRAME.stdout | flags, 1, 1))
    for (const type of [FRAME.pong, FRAME.hello, FRAME.stdinCredit]) bad(allocFrame(type | 0x100, 1, 4))
    bad(allocFrame(FRAME.stdout | 0x100, 1, 0))
    bad(allocFrame(FRAME.stdout | 0x100, 1, 256 * 1024))
    bad(allocFrame(FRAME.exit, 1, 27))
    bad(allocFrame(FRAME.failed, 1, 1025))
    bad(allocFrame(FRAME.pong, 0, 65))
    const huge = allocFrame(FRAME.stdout, 1, 0)
    huge.writeUInt32LE(1024 * 1024 + 1, 0)
    bad(huge)
  })
})
