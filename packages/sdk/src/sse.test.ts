import { expect, test } from 'vitest'
import { type SseMessage, sseParser } from './sse.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

/** Parses `stream` cut into pieces of `size` bytes. */
const parse = (stream: Uint8Array, size = stream.length): SseMessage[] => {
  const parser = sseParser()
  const messages: SseMessage[] = []
  for (let at = 0; at < stream.length; at += size) messages.push(...parser.push(stream.slice(at, at + size)))
  return messages
}

test('dispatches an event at the blank line, with its name, id and data', () => {
  expect(parse(bytes('id: 7\nevent: stdout\ndata: {"a":1}\n\n'))).toEqual([
    { event: 'stdout', data: '{"a":1}', id: '7' },
  ])
})

test('the same events come out wherever the bytes are cut, multi-byte characters and CRLF included', () => {
  const stream = bytes(
    '\ufeff: hello\r\n\r\nevent: a\r\ndata: héllo ✓ 日本 🎉\r\n\r\ndata:no space\ndata\ndata:  two\n\nevent: b\rdata: cr\r\rdata: end\n\n',
  )
  const whole = parse(stream)
  expect(whole).toEqual([
    { event: 'a', data: 'héllo ✓ 日本 🎉', id: undefined },
    { event: 'message', data: 'no space\n\n two', id: undefined },
    { event: 'b', data: 'cr', id: undefined },
    { event: 'message', data: 'end', id: undefined },
  ])
  for (let size = 1; size < stream.length; size++) expect(parse(stream, size)).toEqual(whole)
})

test('comments, unknown fields and events without data give nothing', () => {
  expect(parse(bytes(': heartbeat\n\nretry: 5\n\nevent: lonely\n\nfoo: bar\n\n'))).toEqual([])
})

test('an event that the stream does not finish is not dispatched', () => {
  expect(parse(bytes('data: whole\n\ndata: half\n'))).toHaveLength(1)
})

test('bytes that are not UTF-8 become replacement characters and harm nothing after them', () => {
  const stream = new Uint8Array([...bytes('data: a'), 0xff, 0xc3, ...bytes('\n\ndata: b\n\n')])
  expect(parse(stream).map((message) => message.data)).toEqual(['a\ufffd\ufffd', 'b'])
})

test('an event past the bound is refused, as one line without an end and as many lines', () => {
  const endless = sseParser({ maxEventBytes: 1000 })
  expect(() => {
    for (let i = 0; i < 100; i++) endless.push(bytes('x'.repeat(64)))
  }).toThrow(expect.objectContaining({ code: 'bad_response' }))
  const lines = sseParser({ maxEventBytes: 1000 })
  expect(() => {
    for (let i = 0; i < 400; i++) lines.push(bytes('data:\n'))
  }).toThrow(expect.objectContaining({ code: 'bad_response' }))
})

test('the bound is of one event, not of the stream', () => {
  const parser = sseParser({ maxEventBytes: 100 })
  let count = 0
  for (let i = 0; i < 1000; i++) count += parser.push(bytes(`data: ${'y'.repeat(50)}\n\n`)).length
  expect(count).toBe(1000)
})

test('a chunk may be filled again by its owner after push', () => {
  const parser = sseParser()
  const buffer = bytes('data: first')
  parser.push(buffer)
  buffer.fill(0x7a)
  expect(parser.push(bytes('\n\n'))).toEqual([{ event: 'message', data: 'first', id: undefined }])
})

test('an event of 32 MiB in pieces of 1 KiB arrives whole', () => {
  const parser = sseParser()
  const piece = bytes('z'.repeat(1024))
  parser.push(bytes('data: '))
  for (let i = 0; i < 32 * 1024; i++) parser.push(piece)
  expect(parser.push(bytes('\n\n'))[0]?.data.length).toBe(32 * 1024 * 1024)
})
