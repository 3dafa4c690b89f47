import { once } from 'node:events'
import type { Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, vi } from 'vitest'
import { httpApp, openTestProxy, rawApp, type TestProxy, type TestProxyOptions } from './testing/open-test-proxy.ts'

/** Answers with the head that it was sent, or the body. */
const mirror = () =>
  httpApp((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk) => chunks.push(chunk))
    request.on('end', () => {
      const { method, url, rawHeaders } = request
      response.sendDate = false
      response.end(JSON.stringify({ method, url, rawHeaders, body: Buffer.concat(chunks).toString() }))
    })
  })

/** What comes up to the `count`th end of an answer of `mirror`, or to the end. */
const answers = async (socket: Socket, count: number): Promise<string> => {
  let seen = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    seen += String(chunk)
    if (seen.split(/\}$|\}(?=HTTP)|not a port/).length > count) break
  }
  return seen
}

const opened = async (options?: TestProxyOptions): Promise<TestProxy & { app: number }> => {
  const test = await openTestProxy(options)
  const app = await mirror()
  test.expose(app)
  return { ...test, app }
}

describe('a connection', () => {
  it('with requests for ports alone never comes to node:http', async () => {
    const test = await opened()
    const socket = await test.dial()
    for (const method of ['GET', 'DELETE', 'OPTIONS']) {
      socket.write(`${method} /p/box/${test.app}/ HTTP/1.1\r\nHost: h\r\n\r\n`)
      expect(await answers(socket, 1)).toContain(`"method":"${method}"`)
    }
    socket.write(`POST /p/box/${test.app}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody`)
    expect(await answers(socket, 1)).toContain('"body":"body"')
    expect([test.passed(), test.connects(), test.leases()]).toEqual([0, 1, 0])
    socket.destroy()
  })

  it('goes to node:http with the first other request, and loses nothing', async () => {
    const test = await opened()
    const socket = await test.dial()
    const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: h\r\n\r\n`
    const port = `/p/box/${test.app}`
    socket.write(
      get(`${port}/1`) +
        get(`${port}/2`) +
        get('/other') +
        `POST ${port}/3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n` +
        get(`${port}/4`),
    )
    const seen = await answers(socket, 5)
    expect(seen.match(/"url":"\/\d"|not a port/g)).toEqual([
      '"url":"/1"',
      '"url":"/2"',
      'not a port',
      '"url":"/3"',
      '"url":"/4"',
    ])
    expect(test.passed()).toBe(1)
    socket.destroy()
  })

  it('takes a request in pieces, of whatever size', async () => {
    const test = await opened()
    const socket = await test.dial()
    socket.setNoDelay(true)
    for (const byte of `PUT /p/box/${test.app}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok`) {
      socket.write(byte)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(await answers(socket, 1)).toContain('"body":"ok"')
    socket.destroy()
  })

  it('goes on after a refusal', async () => {
    const test = await opened()
    test.expose(1, { visibility: 'private' })
    const socket = await test.dial()
    const ask = (port: number) => `GET /p/box/${port}/ HTTP/1.1\r\nHost: h\r\n\r\n`
    socket.write(ask(1) + ask(test.app))
    expect(await answers(socket, 2)).toMatch(/^HTTP\/1\.1 401 Unauthorized\r\n[\s\S]*\}HTTP\/1\.1 200 OK\r\n/)
    expect(test.passed()).toBe(0)
    socket.destroy()
  })

  it('of a client that asks and never reads is asked no more for it, and cut', async () => {
    const test = await openTestProxy({ timeouts: { stallTimeoutMs: 100 } })
    let asked = 0
    const port = await httpApp((_request, response) => {
      asked++
      response.end(Buffer.alloc(1 << 20))
    })
    test.expose(port)
    const socket = await test.dial()
    const closed = new Promise<void>((resolve) => void socket.on('close', () => resolve()))
    socket.pause()
    const many = 2000
    socket.write(`GET /p/box/${port}/ HTTP/1.1\r\nHost: h\r\n\r\n`.repeat(many))
    socket.on('error', () => {}).on('end', () => socket.destroy())
    await vi.waitFor(() => expect(asked).toBeGreaterThan(0))
    await vi.waitFor(() => expect(test.leases()).toBe(0), 5_000)
    socket.resume()
    await closed
    expect(asked).toBeLessThan(many / 10)
  })

  it('that says nothing is told so, and ended', async () => {
    const test = await opened({ timeouts: { headersTimeoutMs: 50 } })
    expect(await text(await test.dial())).toMatch(/^HTTP\/1\.1 504 request_timeout\r\n/)
  })

  it('that is idle is ended', async () => {
    const test = await opened({ timeouts: { keepAliveMs: 50, headersTimeoutMs: 50 } })
    const socket = await test.dial()
    socket.write(`GET /p/box/${test.app}/ HTTP/1.1\r\nHost: h\r\n\r\n`)
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200 /)
  })

  it('ends with the proxy', async () => {
    const test = await opened()
    const sockets = [await test.dial(), await test.dial()]
    sockets[0]?.write(`GET /p/box/${test.app}/ HTTP/1.1\r\nHost: h\r\n\r\n`)
    await answers(sockets[0] as Socket, 1)
    const closed = sockets.map((socket) => once(socket.resume(), 'close'))
    for (const socket of sockets) socket.on('end', () => socket.end())
    test.proxy.close()
    await Promise.all(closed)
  })

  it('whose client goes while its app is waited for leaves nothing', async () => {
    const test = await openTestProxy()
    const { promise: ended, resolve } = Promise.withResolvers<void>()
    const port = await rawApp((socket) => void socket.resume().on('close', resolve))
    test.expose(port)
    const socket = await test.dial()
    socket.write(`GET /p/box/${port}/ HTTP/1.1\r\nHost: h\r\n\r\n`)
    await vi.waitFor(() => expect(test.connects()).toBe(1))
    socket.end()
    await ended
    await vi.waitFor(() => expect(test.leases()).toBe(0))
  })
})

/** Without what each says of its own connection. */
const comparable = (answer: string): string =>
  answer
    .replace(/^(?:connection|keep-alive|date): .*\r\n/gim, '')
    .replace(/req_\w+|x-request-id: .*\r\n/g, '')
    .replace(/\r\n\r\n[0-9a-f]+\r\n([\s\S]*)\r\n0\r\n\r\n$/i, '\r\n\r\n$1')

describe('node:http and a connection of our own', () => {
  const PORT = '{port}'
  it.each([
    ['a plain one', `GET /p/box/${PORT}/a?b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\n\r\n`],
    [
      'one from elsewhere',
      `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: a\r\nX-Real-IP: b\r\n\r\n`,
    ],
    [
      'what is of its connection',
      `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nKeep-Alive: timeout=1\r\nProxy-Authorization: a\r\nProxy-Connection: b\r\n\r\n`,
    ],
    [
      'our cookie among others',
      `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nCookie: a=1; bramble_port=1.x; b=2\r\n\r\n`,
    ],
    ['a key', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer bramble_${'k'.repeat(43)}\r\n\r\n`],
    ['credentials of the app', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YTpi\r\n\r\n`],
    ['a key as a parameter', `GET /p/box/${PORT}/?a&token=bramble_${'k'.repeat(43)} HTTP/1.1\r\nHost: h\r\n\r\n`],
    ['a name of a host', `GET /x HTTP/1.1\r\nHost: ${PORT}-box.localhost:8080\r\n\r\n`],
    ['bytes above ASCII', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nX: \xe9\xff\r\n\r\n`],
    ['a body', `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc`],
    ['no body, and its length', `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n`],
    ['no length', `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\n\r\n`],
    ['HEAD', `HEAD /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\n\r\n`],
    ['a page that is elsewhere', `GET /p/box/${PORT} HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n`],
    ['a page', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n`],
    ['a port that is not exposed', 'GET /p/box/9/ HTTP/1.1\r\nHost: h\r\n\r\n'],
    ['a port that is not exposed, as a page', 'GET /p/box/9/ HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n'],
    ['another host twice', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nHost: ${PORT}-box.localhost\r\n\r\n`],
    ['no host', `GET /p/box/${PORT}/ HTTP/1.1\r\n\r\n`],
    ['a length behind a space', `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc`],
    ['a line that is folded', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n`],
    ['lines that end with LF', `GET /p/box/${PORT}/ HTTP/1.1\nHost: h\n\n`],
    ['a NUL', `GET /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n`],
    ['two lengths', `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd`],
    [
      'a coding and a length',
      `POST /p/box/${PORT}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ],
  ])('make the same of %s', async (_what, template) => {
    const app = await mirror()
    const key = `bramble_${'k'.repeat(43)}`
    expect(key).toHaveLength(51)
    const seen: string[] = []
    for (const withoutFront of [true, false]) {
      const test = await openTestProxy({ withoutFront })
      test.expose(app)
      const socket = await test.dial()
      const request = template.replaceAll(PORT, String(app))
      // The second ends the connection, where it comes so far.
      socket.write(`${request}GET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n`, 'latin1')
      seen.push(comparable(await text(socket)))
    }
    expect(seen[1]).toBe(seen[0])
  })
})
