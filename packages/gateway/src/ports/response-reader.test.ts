import { describe, expect, it } from 'vitest'
import { BadResponse, MAX_RESPONSE_HEAD_BYTES, type ResponseHead, ResponseReader } from './response-reader.ts'

interface Read {
  readonly heads: ResponseHead[]
  readonly body: string
  readonly trailers: readonly string[] | undefined
  readonly rest: string
}

/** Feeds `text` in pieces of `size` bytes; `closes`: then the connection ends. */
const read = (text: string, options: { size?: number; method?: string; closes?: boolean } = {}): Read => {
  const heads: ResponseHead[] = []
  const body: Buffer[] = []
  let trailers: readonly string[] | undefined
  let rest = ''
  const reader = new ResponseReader({
    head: (head) => heads.push(head),
    body: (data) => body.push(Buffer.from(data)),
    end: (fields, more) => {
      trailers = fields
      rest = more?.toString('latin1') ?? ''
    },
  })
  reader.reset(options.method ?? 'GET', false)
  const bytes = Buffer.from(text, 'latin1')
  const size = options.size ?? bytes.length
  for (let at = 0; at < bytes.length && trailers === undefined; at += size) reader.feed(bytes.subarray(at, at + size))
  if (options.closes) reader.close()
  return { heads, body: Buffer.concat(body).toString('latin1'), trailers, rest }
}

const CHUNKED =
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n' +
  '5\r\nhello\r\n6;ext="x"\r\n, worl\r\n1\r\nd\r\n0\r\nX-Sum: 7\r\n\r\n'

describe('a response is read the same however it is cut', () => {
  it.each([1, 2, 3, 7, 64, 10_000])('in pieces of %i bytes', (size) => {
    expect(read('HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nX-A:  a b \r\n\r\nabc', { size })).toMatchObject({
      heads: [{ status: 404, reason: 'Not Found', framing: 'length', headers: ['X-A', 'a b', 'content-length', '3'] }],
      body: 'abc',
      trailers: [],
    })
    expect(read(CHUNKED, { size })).toMatchObject({ body: 'hello, world', trailers: ['X-Sum', '7'] })
    expect(read('HTTP/1.0 200 OK\n\nuntil the end', { size, closes: true })).toMatchObject({ body: 'until the end' })
    expect(read('HTTP/1.1 103 x\r\nLink: </a>\r\n\r\nHTTP/1.1 204\r\n\r\n', { size }).heads).toMatchObject([
      { status: 103 },
      { status: 204, framing: 'none' },
    ])
  })
})

it('tells which connection can serve again', () => {
  const keeps = (head: string): boolean | undefined => read(`${head}\r\n\r\n`).heads[0]?.keepsAlive
  expect(keeps('HTTP/1.1 204 x')).toBe(true)
  expect(keeps('HTTP/1.1 204 x\r\nConnection: x, Close')).toBe(false)
  expect(keeps('HTTP/1.0 204 x')).toBe(false)
  expect(keeps('HTTP/1.0 204 x\r\nConnection: keep-alive')).toBe(true)
  expect(keeps('HTTP/1.1 200 x')).toBe(false)
  // Both lengths: the coding counts, and the connection is not trusted again.
  expect(keeps('HTTP/1.1 200 x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked')).toBe(false)
})

it('a response to HEAD has no body, whatever it says', () => {
  expect(read('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n', { method: 'HEAD' })).toMatchObject({
    heads: [{ framing: 'none', headers: ['content-length', '9'] }],
    trailers: [],
  })
})

it('what comes after a response is not taken for the next', () => {
  expect(read('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n').rest).toBe(
    'HTTP/1.1 200 OK\r\n\r\n',
  )
})

it('bytes of UTF-8 in a value stay', () => {
  expect(read('HTTP/1.1 204 x\r\nX-A: \xc3\xa0\r\n\r\n').heads[0]?.headers).toEqual(['X-A', '\xc3\xa0'])
})

it.each([
  ['no HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
  ['HTTP/2', 'HTTP/2 200\r\n\r\n'],
  ['a status of four digits', 'HTTP/1.1 2000 OK\r\n\r\n'],
  ['a status below 100', 'HTTP/1.1 099 OK\r\n\r\n'],
  ['a protocol switch that nobody asked for', 'HTTP/1.1 101 x\r\nUpgrade: x\r\n\r\n'],
  ['a header without a colon', 'HTTP/1.1 200 OK\r\nabc\r\n\r\n'],
  ['a name with a space', 'HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n'],
  ['a folded line', 'HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\n\r\n'],
  ['a bare carriage return', 'HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\n\r\n'],
  ['a NUL byte', 'HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n'],
  ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n'],
  ['a negative length', 'HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n'],
  ['a length with a sign', 'HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n'],
  ['a length beyond numbers', `HTTP/1.1 200 OK\r\nContent-Length: ${'9'.repeat(20)}\r\n\r\n`],
  ['an unknown coding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n'],
  ['the coding twice', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n'],
  ['a coding in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'],
  ['a chunk without a size', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n\r\nx`],
  ['a chunk size in other digits', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n0x5\r\nhello\r\n`],
  ['a chunk size beyond numbers', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n${'f'.repeat(16)}\r\n`],
  ['a chunk longer than its size', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n2\r\nhello\r\n0\r\n\r\n`],
  ['extensions without end', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n2;${'x'.repeat(4096)}`],
  ['trailers without end', `${CHUNKED.split('\r\n\r\n')[0]}\r\n\r\n0\r\n${'X-A: b\r\n'.repeat(20_000)}`],
  ['headers without end', `HTTP/1.1 200 OK\r\n${'X-A: b\r\n'.repeat(20_000)}`],
  ['one line without end', `HTTP/1.1 200 ${'x'.repeat(MAX_RESPONSE_HEAD_BYTES)}`],
  ['interim responses without end', 'HTTP/1.1 102 x\r\n\r\n'.repeat(100)],
])('%s is refused', (_what, text) => {
  expect(() => read(text)).toThrow(BadResponse)
  expect(() => read(text, { size: 997 })).toThrow(BadResponse)
})

it.each([
  ['the headers', 'HTTP/1.1 200 OK\r\nX-A'],
  ['a body of known length', 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab'],
  ['a chunked body', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n'],
])('a connection that ends within %s is no whole response', (_what, text) => {
  expect(() => read(text, { closes: true })).toThrow(BadResponse)
})

it('random bytes never do more than be refused', () => {
  let seed = 7
  const random = (): number => {
    seed = (seed * 1_103_515_245 + 12_345) & 0x7fff_ffff
    return seed
  }
  const seeds = [CHUNKED, 'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nhello, world']
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(seeds[i % 2] ?? '', 'latin1')
    for (let n = 0; n < 3; n++) bytes[random() % bytes.length] = random() & 0xff
    try {
      expect(read(bytes.toString('latin1'), { size: 1 + (random() % 40) }).body.length).toBeLessThanOrEqual(
        bytes.length,
      )
    } catch (error) {
      expect(error).toBeInstanceOf(BadResponse)
    }
  }
})
