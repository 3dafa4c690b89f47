import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { describe, expect, it, vi } from 'vitest'
import WebSocket, { WebSocketServer } from 'ws'
import { closedPort, httpApp, openTestProxy, rawApp } from './testing/open-test-proxy.ts'

/** Answers with what it was sent. */
const mirror = () =>
  httpApp((request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers }))
  })

interface Mirrored {
  readonly method: string
  readonly url: string
  readonly headers: IncomingHttpHeaders
}

const readUntil = async (socket: Socket, marker: string): Promise<string> => {
  let seen = ''
  for await (const chunk of socket) {
    seen += String(chunk)
    if (seen.includes(marker)) break
  }
  return seen
}

describe('a request', () => {
  it('comes to the app without the prefix, and says where it came from', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/a%2Fb?x=1&y`, {
      headers: { 'x-forwarded-for': '6.6.6.6', forwarded: 'for=6.6.6.6', 'x-real-ip': '6.6.6.6', 'x-own': 'kept' },
    })
    const seen = (await response.json()) as Mirrored
    expect(seen).toMatchObject({
      method: 'GET',
      url: '/a%2Fb?x=1&y',
      headers: {
        'x-own': 'kept',
        'x-forwarded-for': '127.0.0.1',
        'x-forwarded-proto': 'http',
        'x-forwarded-host': `127.0.0.1:${test.port}`,
        'x-forwarded-prefix': `/p/box/${port}`,
      },
    })
    expect(Object.keys(seen.headers)).not.toContain('forwarded')
    expect(Object.keys(seen.headers)).not.toContain('x-real-ip')
  })

  it('of its own connection stays there', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port)
    const socket = await test.dial()
    socket.write(
      `GET /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: secret\r\n` +
        'Keep-Alive: timeout=5\r\nTE: trailers, gzip\r\nX-End: 1\r\n\r\n',
    )
    const { headers } = JSON.parse((await text(socket)).split('\r\n\r\n')[1] ?? '') as Mirrored
    expect(headers).toMatchObject({ 'x-end': '1', te: 'trailers' })
    for (const name of ['x-hop', 'proxy-authorization', 'keep-alive']) expect(headers).not.toHaveProperty(name)
  })

  it.each(['length', 'chunked'])('has its body passed on, by %s, unchanged', async (framing) => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => {
      const how = request.headers['transfer-encoding'] ?? request.headers['content-length']
      const hash = createHash('sha256')
      request.on('data', (chunk) => hash.update(chunk)).on('end', () => response.end(`${how} ${hash.digest('hex')}`))
    })
    test.expose(port)
    const data = randomBytes(3_000_000)
    const sent = framing === 'length' ? { body: data } : { body: Readable.toWeb(Readable.from([data])), duplex: 'half' }
    const response = await test.fetch(`/p/box/${port}/`, { method: 'POST', ...sent } as RequestInit)
    const how = framing === 'length' ? '3000000' : 'chunked'
    expect(await response.text()).toBe(`${how} ${createHash('sha256').update(data).digest('hex')}`)
  })

  it('waits to continue until the app is there', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => void buffer(request).then((got) => response.end(got)))
    test.expose(port)
    const ask = httpRequest({
      port: test.port,
      path: `/p/box/${port}/`,
      method: 'PUT',
      headers: { expect: '100-continue' },
    })
    ask.flushHeaders()
    await once(ask, 'continue')
    ask.end('now')
    const [answer] = (await once(ask, 'response')) as [IncomingMessage]
    expect(await text(answer)).toBe('now')

    const refused = httpRequest({
      port: test.port,
      path: '/p/box/9/',
      method: 'PUT',
      headers: { expect: '100-continue' },
    })
    refused.on('continue', () => expect.unreachable())
    refused.flushHeaders()
    const [problem] = (await once(refused, 'response')) as [IncomingMessage]
    expect(problem.statusCode).toBe(401)
    problem.resume()
    refused.destroy()
  })

  it('has trailers, and so has its response', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => {
      request.resume().on('end', () => {
        response.writeHead(200, { trailer: 'x-sum' })
        response.write(JSON.stringify(request.trailers))
        response.addTrailers({ 'x-sum': '42' })
        response.end()
      })
    })
    test.expose(port)
    const ask = httpRequest({ port: test.port, path: `/p/box/${port}/`, method: 'POST', headers: { trailer: 'x-t' } })
    ask.write('a')
    ask.addTrailers({ 'x-t': 'yes' })
    ask.end()
    const [answer] = (await once(ask, 'response')) as [IncomingMessage]
    expect(await text(answer)).toBe('{"x-t":"yes"}')
    expect(answer.trailers).toEqual({ 'x-sum': '42' })
  })

  it.each([
    ['both lengths', 'Content-Length: 4\r\nTransfer-Encoding: chunked', '0\r\n\r\n'],
    ['an unknown coding', 'Transfer-Encoding: gzip, chunked', '0\r\n\r\n'],
    ['two lengths', 'Content-Length: 4\r\nContent-Length: 5', 'abcd'],
  ])('with %s never reaches the app', async (_what, framing, body) => {
    const test = await openTestProxy()
    const asked = vi.fn()
    const port = await httpApp(asked)
    test.expose(port)
    const socket = await test.dial()
    socket.write(`POST /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${framing}\r\n\r\n${body}`)
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 400 /)
    expect(asked).not.toHaveBeenCalled()
  })
})

describe('a response', () => {
  it('keeps its status, headers, and repeated ones in their order', async () => {
    const test = await openTestProxy()
    const port = await rawApp((socket) =>
      socket.once('data', () =>
        socket.write(
          'HTTP/1.1 299 Fine by me\r\nX-A: 1\r\nx-a: 2\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nhi',
        ),
      ),
    )
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    expect([response.status, response.statusText, response.headers.get('x-a')]).toEqual([299, 'Fine by me', '1, 2'])
    expect(await response.text()).toBe('hi')
  })

  it('comes as it is made', async () => {
    const test = await openTestProxy()
    const { promise: seen, resolve: next } = Promise.withResolvers<void>()
    const port = await httpApp((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
      void seen.then(() => response.end('data: 2\n\n'))
    })
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
    expect((await reader?.read())?.value).toBe('data: 1\n\n')
    next()
    expect((await reader?.read())?.value).toBe('data: 2\n\n')
    expect((await reader?.read())?.done).toBe(true)
  })

  it('to HEAD, 204 and 304 have no body, and the connection goes on', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => {
      const status = Number(request.url?.slice(1)) || 200
      response.writeHead(status, status === 200 ? { 'content-length': '5' } : {}).end('hello')
    })
    test.expose(port)
    const head = await test.fetch(`/p/box/${port}/`, { method: 'HEAD' })
    expect([head.headers.get('content-length'), await head.text()]).toEqual(['5', ''])
    for (const status of [204, 304, 200]) expect((await test.fetch(`/p/box/${port}/${status}`)).status).toBe(status)
    expect(test.connects()).toBe(1)
  })

  it('by path has its redirects, cookies and pages kept in their place', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => {
      const locations: Record<string, string> = {
        '/own': '/next?x',
        '/full': `http://${request.headers.host}/next`,
        '/elsewhere': 'https://example.org/next',
        '/relative': 'next',
        '/host': '//example.org/next',
      }
      response.writeHead(302, {
        location: locations[request.url ?? ''],
        'set-cookie': ['a=1; Path=/deep; HttpOnly', 'b=2; Domain=localhost'],
      })
      response.end()
    })
    test.expose(port)
    const prefix = `/p/box/${port}`
    const location = async (path: string) => (await test.fetch(prefix + path)).headers.get('location')
    expect(await location('/own')).toBe(`${prefix}/next?x`)
    expect(await location('/full')).toBe(`http://127.0.0.1:${test.port}${prefix}/next`)
    expect(await location('/elsewhere')).toBe('https://example.org/next')
    expect(await location('/relative')).toBe('next')
    expect(await location('/host')).toBe('//example.org/next')
    const { headers } = await test.fetch(`${prefix}/own`)
    expect(headers.getSetCookie()).toEqual([`a=1; HttpOnly; Path=${prefix}/deep`, `b=2; Path=${prefix}/`])
    expect(headers.get('content-security-policy')).toMatch(/^sandbox (?!.*allow-same-origin)/)
  })

  it('by host name is left as it is', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => {
      response.writeHead(302, { location: '/next', 'set-cookie': 'a=1; Path=/' })
      response.end(request.url)
    })
    const { instanceId } = test.expose(port)
    for (const label of ['box', instanceId.replace('_', '-')]) {
      const ask = httpRequest({ port: test.port, path: '/p/x?y', headers: { host: `${port}-${label}.localhost:1` } })
      ask.end()
      const [answer] = (await once(ask, 'response')) as [IncomingMessage]
      expect(answer.headers).toMatchObject({ location: '/next', 'set-cookie': ['a=1; Path=/'] })
      expect(answer.headers['content-security-policy']).toBeUndefined()
      expect(await text(answer)).toBe('/p/x?y')
    }
  })

  it.each([
    ['ends early', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'],
    ['is cut within a chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf'],
  ])('that %s is not made whole', async (_what, bytes) => {
    const test = await openTestProxy()
    const port = await rawApp((socket) => socket.once('data', () => socket.end(bytes)))
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    await expect(response.text()).rejects.toThrow()
    expect(test.leases()).toBe(0)
  })

  it('that is no HTTP is said to be none', async () => {
    const test = await openTestProxy()
    const port = await rawApp((socket) => socket.once('data', () => socket.end('220 mail.example.org\r\n\r\n')))
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([502, 'bad_response'])
  })

  it('goes at the reader’s pace, and arrives unchanged', async () => {
    const test = await openTestProxy()
    const chunk = randomBytes(1 << 20)
    const total = 64
    let made = 0
    const port = await httpApp((_request, response) => {
      const source = Readable.from(
        (function* () {
          for (; made < total; made++) yield chunk
        })(),
      )
      source.pipe(response)
    })
    test.expose(port)
    const ask = httpRequest({ port: test.port, path: `/p/box/${port}/` }).end()
    const [answer] = (await once(ask, 'response')) as [IncomingMessage]
    await vi.waitFor(() => expect(made).toBeGreaterThan(2))
    // Kernel buffers and ours are full long before the end.
    await new Promise((resolve) => setImmediate(resolve))
    expect(made).toBeLessThan(total)
    const hash = createHash('sha256')
    for await (const data of answer) hash.update(data as Buffer)
    const whole = createHash('sha256')
    for (let i = 0; i < total; i++) whole.update(chunk)
    expect(hash.digest('hex')).toBe(whole.digest('hex'))
  })
})

describe('connections', () => {
  it('serve one request after the other', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port)
    for (let i = 0; i < 5; i++) await (await test.fetch(`/p/box/${port}/`)).text()
    await (await test.fetch(`/p/box/${port}/`, { method: 'POST', body: 'x' })).text()
    expect(test.connects()).toBe(1)
    expect(test.leases()).toBe(0)
  })

  it('that the app closed are made anew, once, where the request can be repeated', async () => {
    const test = await openTestProxy()
    let asked = 0
    const port = await rawApp((socket) =>
      socket.on('data', () => {
        // The second request on a connection meets its end.
        if (++asked === 2 || asked === 5) socket.destroy()
        else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      }),
    )
    test.expose(port)
    const ask = async (init?: RequestInit): Promise<number> => {
      const response = await test.fetch(`/p/box/${port}/`, init)
      await response.text()
      return response.status
    }
    expect([await ask(), await ask(), test.connects()]).toEqual([200, 200, 2])
    expect([await ask({ method: 'POST', body: 'a' }), await ask({ method: 'POST', body: 'a' })]).toEqual([200, 502])
    expect(asked).toBe(5)
  })

  it('are bounded: who comes too many waits for a place', async () => {
    const test = await openTestProxy({ limits: { maxUpstreams: 2, maxWaiting: 1 } })
    const waiting: (() => void)[] = []
    const port = await httpApp((_request, response) => void waiting.push(() => response.end('done')))
    test.expose(port)
    const asked = [1, 2, 3].map(() => test.fetch(`/p/box/${port}/`).then((response) => response.text()))
    await vi.waitFor(() => expect([waiting.length, test.leases()]).toEqual([2, 3]))
    expect((await test.fetch(`/p/box/${port}/`)).status).toBe(503)
    waiting.shift()?.()
    await vi.waitFor(() => expect(waiting).toHaveLength(2))
    for (const end of waiting) end()
    expect(await Promise.all(asked)).toEqual(['done', 'done', 'done'])
    expect(test.connects()).toBe(2)
  })

  it('give way to those of another port', async () => {
    const test = await openTestProxy({ limits: { maxUpstreams: 1, maxWaiting: 0 } })
    const ports = [await mirror(), await mirror()]
    const { instanceId } = test.expose(ports[0] ?? 0)
    test.expose(ports[1] ?? 0, { instanceId })
    for (const port of [...ports, ...ports]) {
      const response = await test.fetch(`/p/${instanceId}/${port}/`)
      expect(response.status).toBe(200)
      await response.text()
    }
  })

  it('end with the client', async () => {
    const test = await openTestProxy()
    const { promise: gone, resolve } = Promise.withResolvers<void>()
    const port = await httpApp((request) => void request.on('close', resolve))
    test.expose(port)
    const controller = new AbortController()
    const asked = test.fetch(`/p/box/${port}/`, { signal: controller.signal })
    await vi.waitFor(() => expect(test.leases()).toBe(1))
    controller.abort()
    await expect(asked).rejects.toThrow()
    await gone
    await vi.waitFor(() => expect(test.leases()).toBe(0))
  })

  it('end when the port is not exposed any more', async () => {
    const test = await openTestProxy()
    const port = await httpApp((_request, response) => void response.write('begin'))
    const { instanceId } = test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    test.proxy.cut(instanceId, port)
    await expect(response.text()).rejects.toThrow()
  })
})

describe('a port that nobody listens on', () => {
  it('is a problem for programs, a page for people', async () => {
    const test = await openTestProxy()
    const port = await closedPort()
    test.expose(port)
    const response = await test.fetch(`/p/box/${port}/`)
    expect([response.status, response.headers.get('content-type')]).toEqual([502, 'application/problem+json'])
    expect(await response.json()).toMatchObject({ code: 'port_closed', retryable: true })
    const page = await test.fetch(`/p/box/${port}/`, { headers: { accept: 'text/html,*/*' } })
    expect([page.status, page.headers.get('content-type')]).toEqual([502, 'text/html; charset=utf-8'])
    expect(await page.text()).toContain('Nothing listens on that port in the sandbox')
    expect(test.leases()).toBe(0)
  })
})

describe('a switch of protocols', () => {
  it('joins a WebSocket, both ways', async () => {
    const test = await openTestProxy()
    const port = await httpApp(() => {})
    const app = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await once(app, 'listening')
    const wsPort = (app.address() as { port: number }).port
    app.on('connection', (socket, request) => {
      socket.send(`hello ${request.url}`)
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
    })
    test.expose(wsPort)
    test.expose(port)
    const client = new WebSocket(`ws://127.0.0.1:${test.port}/p/box/${wsPort}/chat?x`)
    expect(String((await once(client, 'message'))[0])).toBe('hello /chat?x')
    const big = randomBytes(5_000_000)
    client.send(big)
    expect(big.equals((await once(client, 'message'))[0] as Buffer)).toBe(true)
    expect(test.leases()).toBe(1)
    client.close(1000, 'bye')
    const [code] = await once(client, 'close')
    expect(code).toBe(1000)
    await vi.waitFor(() => expect(test.leases()).toBe(0))
    app.close()
  })

  it('of any other name passes too, with what comes before and after', async () => {
    const test = await openTestProxy()
    const port = await rawApp((socket) => {
      socket.once('data', (head) => {
        expect(String(head)).toMatch(/\r\nconnection: upgrade\r\nupgrade: tcp\r\n/)
        socket.write('HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst ')
        socket.pipe(socket)
      })
    })
    test.expose(port)
    const client = await test.dial()
    client.write(`GET /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly.`)
    const seen = await readUntil(client, 'early.')
    expect(seen).toMatch(/^HTTP\/1\.1 101 Yes\r\n(?:.*\r\n)*connection: upgrade\r\nupgrade: tcp\r\n\r\nfirst early\.$/)
  })

  it('that the app refuses is an answer like any other', async () => {
    const test = await openTestProxy()
    const port = await httpApp((_request, response) => void response.writeHead(403).end('no'))
    test.expose(port)
    const client = await test.dial()
    client.write(`GET /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)
    expect(await text(client)).toMatch(/^HTTP\/1\.1 403 Forbidden\r\n(?:.+\r\n)*\r\nno$/)
    expect(test.leases()).toBe(0)
  })

  it('to HTTP/2 is not made: the answer is that of HTTP/1.1', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port)
    const client = await test.dial()
    client.write(
      `GET /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`,
    )
    const answer = await text(client)
    expect(answer).toMatch(/^HTTP\/1\.1 200 /)
    expect(answer).not.toMatch(/h2c|AAMAAABk/)
  })

  it('needs what a request needs', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port, { visibility: 'private' })
    const client = await test.dial()
    client.write(`GET /p/box/${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)
    expect(await text(client)).toMatch(/^HTTP\/1\.1 401 /)
  })
})
