import { expect, it } from 'vitest'
import { readPlainRequest } from './plain-request.ts'

const MAX_BYTES = 1024
const read = (text: string) => readPlainRequest(Buffer.from(text, 'latin1'), { remoteAddress: '::1' }, MAX_BYTES)
const HOST = 'Host: h\r\n'

it('reads a request with its headers as they came', () => {
  expect(read(`GET /p?q HTTP/1.1\r\n${HOST}X-A:  b \t\r\nx-a:\r\nCookie: c=\xe9\r\n\r\n`)).toMatchObject({
    method: 'GET',
    url: '/p?q',
    headers: { host: 'h', cookie: 'c=\xe9' },
    rawHeaders: ['Host', 'h', 'X-A', 'b', 'x-a', '', 'Cookie', 'c=\xe9'],
  })
})

it('says where its body is, and where the next request begins', () => {
  const head = `POST / HTTP/1.1\r\n${HOST}Content-Length: 4\r\n\r\n`
  expect(read(`${head}bodyGET /`)).toMatchObject({ headEnd: head.length, end: head.length + 4 })
})

it('takes no part of one', () => {
  const whole = `PUT /a HTTP/1.1\r\n${HOST}Content-Length: 3\r\nConnection: Keep-Alive\r\n\r\nabc`
  for (let i = 0; i < whole.length; i++) expect(read(whole.slice(0, i))).toBeUndefined()
  expect(read(whole)).toBeDefined()
})

it.each([
  ['an empty line before it', `\r\nGET / HTTP/1.1\r\n${HOST}\r\n`],
  ['HTTP/1.0', `GET / HTTP/1.0\r\n${HOST}\r\n`],
  ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ['a method of another kind', `CONNECT h:1 HTTP/1.1\r\n${HOST}\r\n`],
  ['a method in lower case', `get / HTTP/1.1\r\n${HOST}\r\n`],
  ['an absolute target', `GET http://h/ HTTP/1.1\r\n${HOST}\r\n`],
  ['a target with a space', `GET /a b HTTP/1.1\r\n${HOST}\r\n`],
  ['a target with bytes above ASCII', `GET /\xe9 HTTP/1.1\r\n${HOST}\r\n`],
  ['no host', 'GET / HTTP/1.1\r\nAccept: a\r\n\r\n'],
  ['an empty host', 'GET / HTTP/1.1\r\nHost:\r\n\r\n'],
  ['two hosts', `GET / HTTP/1.1\r\n${HOST}host: i\r\n\r\n`],
  ['two keys', `GET / HTTP/1.1\r\n${HOST}Authorization: a\r\nauthorization: b\r\n\r\n`],
  ['two lengths', `POST / HTTP/1.1\r\n${HOST}Content-Length: 1\r\nContent-Length: 1\r\n\r\na`],
  ['a list of lengths', `POST / HTTP/1.1\r\n${HOST}Content-Length: 1, 1\r\n\r\na`],
  ['a length with a sign', `POST / HTTP/1.1\r\n${HOST}Content-Length: +1\r\n\r\na`],
  ['a length in hexadecimal', `POST / HTTP/1.1\r\n${HOST}Content-Length: 0x1\r\n\r\na`],
  ['a length with a zero before it', `POST / HTTP/1.1\r\n${HOST}Content-Length: 01\r\n\r\na`],
  ['an empty length', `POST / HTTP/1.1\r\n${HOST}Content-Length:\r\n\r\na`],
  ['a transfer coding', `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
  ['both', `POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\nTRANSFER-ENCODING: x\r\n\r\n0\r\n\r\n`],
  ['a space before a colon', `POST / HTTP/1.1\r\n${HOST}Content-Length : 1\r\n\r\na`],
  ['a folded line', `GET / HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n`],
  ['a line without a colon', `GET / HTTP/1.1\r\n${HOST}X\r\n\r\n`],
  ['a header without a name', `GET / HTTP/1.1\r\n${HOST}: a\r\n\r\n`],
  ['lines that end with LF', 'GET / HTTP/1.1\nHost: h\n\n'],
  ['a line that ends with LF', `GET / HTTP/1.1\r\n${HOST}A: b\nC: d\r\n\r\n`],
  ['a CR within a line', `GET / HTTP/1.1\r\n${HOST}A: b\rC: d\r\n\r\n`],
  ['a NUL', `GET / HTTP/1.1\r\n${HOST}A: b\0\r\n\r\n`],
  ['a NUL in a name', `GET / HTTP/1.1\r\n${HOST}A\0: b\r\n\r\n`],
  ['an upgrade', `GET / HTTP/1.1\r\n${HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n`],
  ['a connection that ends', `GET / HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`],
  ['headers of its connection', `GET / HTTP/1.1\r\n${HOST}Connection: keep-alive, X\r\nX: 1\r\n\r\n`],
  ['an expectation', `PUT / HTTP/1.1\r\n${HOST}Expect: 100-continue\r\n\r\n`],
  ['trailers to come', `GET / HTTP/1.1\r\n${HOST}TE: trailers\r\n\r\n`],
  ['a head that is too large', `GET / HTTP/1.1\r\n${HOST}A: ${'b'.repeat(MAX_BYTES)}\r\n\r\n`],
])('leaves %s to node:http', (_what, text) => expect(read(text)).toBeUndefined())

it('knows no header by the name of what every object has', () => {
  const request = read(`GET / HTTP/1.1\r\n${HOST}constructor: a\r\n__proto__: b\r\n__proto__: c\r\n\r\n`)
  expect(request?.rawHeaders.slice(2)).toEqual(['constructor', 'a', '__proto__', 'b', '__proto__', 'c'])
  expect(Object.getPrototypeOf(request?.headers)).toBe(Object.prototype)
})
