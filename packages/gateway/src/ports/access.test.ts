import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { httpApp, openTestProxy } from './testing/open-test-proxy.ts'

const mirror = () =>
  httpApp((request, response) => response.end(JSON.stringify({ url: request.url, headers: request.headers })))

const codeOf = async (response: Response): Promise<string> => ((await response.json()) as { code: string }).code

describe('a private port', () => {
  it('takes a key of its tenant that may execute, and shows it to nobody', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port, { visibility: 'private' })
    const path = `/p/box/${port}/a?x=1`
    const withKey = (key: string) => test.fetch(path, { headers: { authorization: `Bearer ${key}` } })
    for (const response of [await withKey(test.key), await test.fetch(`${path}&token=${test.key}&y=2`)]) {
      expect(response.status).toBe(200)
      const seen = await response.text()
      expect(seen).toContain('/a?x=1')
      expect(seen).not.toContain('bramble_')
    }
    expect(await codeOf(await test.fetch(path))).toBe('unauthorized')
    expect(await codeOf(await withKey(`${test.key}x`))).toBe('unauthorized')
    expect(await codeOf(await withKey(`${test.key}r`))).toBe('forbidden')
    // To another tenant it is not there.
    expect(await codeOf(await withKey(`${test.key}o`))).toBe('not_found')
    expect(await codeOf(await test.fetch(`/p/none/${port}/`))).toBe('unauthorized')
  })

  it('takes a signed URL; a browser keeps it as a cookie of that place', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    const exposure = test.expose(port, { visibility: 'private' })
    const { signature, expires } = test.signatures.sign(exposure, Date.now() + 60_000)
    const query = `bramble_signature=${signature}&bramble_expires=${expires}`
    const path = `/p/${exposure.instanceId}/${port}`

    const direct = await test.fetch(`${path}/x?a=1&${query}`, { headers: { authorization: 'Basic abc' } })
    expect(await direct.json()).toMatchObject({ url: '/x?a=1', headers: { authorization: 'Basic abc' } })

    const page = await test.fetch(`${path}/x?a=1&${query}`, { headers: { accept: 'text/html' } })
    expect([page.status, page.headers.get('location')]).toEqual([303, `${path}/x?a=1`])
    const [cookie = ''] = page.headers.getSetCookie()
    expect(cookie).toMatch(new RegExp(`^bramble_port=\\S+; Path=${path}; Max-Age=\\d+; HttpOnly; SameSite=Lax$`))
    const [pair] = cookie.split(';')
    const next = await test.fetch(`${path}/style.css`, { headers: { cookie: `own=1; ${pair}; more=2` } })
    const seen = (await next.json()) as { headers: { cookie: string } }
    expect(seen.headers.cookie).toBe('own=1; more=2')
    const socket = await test.fetch(`${path}/`, { headers: { cookie: `${pair}`, authorization: 'Bearer own' } })
    expect(await socket.json()).toMatchObject({ headers: { authorization: 'Bearer own' } })
  })

  it('takes no signature that was changed, has expired, or is of another port or time', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    const exposure = test.expose(port, { visibility: 'private' })
    const { signature, expires } = test.signatures.sign(exposure, Date.now() + 60_000)
    const past = test.signatures.sign(exposure, Date.now() - 1)
    const other = test.signatures.sign({ ...exposure, port: port + 1 }, Date.now() + 60_000)
    const earlier = test.signatures.sign({ ...exposure, createdAt: '2020' }, Date.now() + 60_000)
    const flipped = (signature.startsWith('A') ? 'B' : 'A') + signature.slice(1)
    for (const signed of [
      past,
      other,
      earlier,
      { signature: flipped, expires },
      { signature, expires: `${expires}0` },
      { signature, expires: `0${expires}` },
      { signature: '', expires },
      { signature, expires: 'NaN' },
      { signature: signature.slice(0, 20), expires },
    ]) {
      const query = `bramble_signature=${signed.signature}&bramble_expires=${signed.expires}`
      const asked = [
        test.fetch(`/p/box/${port}/?${query}`),
        test.fetch(`/p/box/${port}/`, { headers: { cookie: `bramble_port=${signed.expires}.${signed.signature}` } }),
      ]
      for (const response of await Promise.all(asked)) expect(await codeOf(response)).toBe('unauthorized')
    }
  })

  it('by host name has a cookie of that host', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    const exposure = test.expose(port, { visibility: 'private' })
    const { signature, expires } = test.signatures.sign(exposure, Date.now() + 60_000)
    const path = `/?bramble_signature=${signature}&bramble_expires=${expires}`
    const headers = { host: `${port}-box.localhost:${test.port}`, accept: 'text/html' }
    const ask = httpRequest({ port: test.port, path, headers }).end()
    const [answer] = (await once(ask, 'response')) as [IncomingMessage]
    expect([answer.statusCode, answer.headers.location]).toEqual([303, '/'])
    expect(answer.headers['set-cookie']?.[0]).toContain('; Path=/; ')
    await text(answer)
  })
})

describe('a public port', () => {
  it('takes everybody; what is the app’s own passes, an API key never does', async () => {
    const test = await openTestProxy()
    const port = await mirror()
    test.expose(port)
    const ask = async (headers: Record<string, string>, query = '') =>
      (await (await test.fetch(`/p/box/${port}/${query}`, { headers })).json()) as { url: string; headers: object }
    expect((await ask({ authorization: 'Bearer own-token' })).headers).toMatchObject({
      authorization: 'Bearer own-token',
    })
    expect((await ask({}, '?token=own')).url).toBe('/?token=own')
    const seen = await ask({ authorization: `Bearer ${test.key}` }, `?token=${test.key}&a`)
    expect(JSON.stringify(seen)).not.toContain('bramble_')
    expect(seen.url).toBe('/?a')
  })
})

describe('one name in two tenants', () => {
  it('means what the key says, and the oldest public one to everybody else', async () => {
    const test = await openTestProxy()
    const port = await httpApp((request, response) => response.end(request.headers.host))
    const first = test.expose(port, { tenant: 'first' })
    test.expose(port, { tenant: 'second' })
    const mine = test.expose(port, { visibility: 'private' })
    const { signature, expires } = test.signatures.sign(mine, Date.now() + 60_000)
    const everybody: Record<string, string>[] = [
      {},
      { authorization: `Bearer ${test.key}` },
      { cookie: `bramble_port=${expires}.${signature}` },
      { authorization: `Bearer ${test.key}o` },
    ]
    for (const headers of everybody) expect((await test.fetch(`/p/box/${port}/`, { headers })).status).toBe(200)
    expect(test.used).toEqual([first.instanceId, mine.instanceId, mine.instanceId, first.instanceId])
  })
})

it.each([
  '/p/',
  '/p/box',
  '/p/box/',
  '/p/box/0/',
  '/p/box/3000x',
  '/p/BOX/3000/',
  '/p/a b/3000/',
  '/p/../3000/',
  '/pp/box/3000/',
])('%s is no port', async (path) => {
  const test = await openTestProxy()
  test.expose(3000)
  const socket = await test.dial()
  socket.end(`GET ${path.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  expect(await text(socket)).toContain('not a port')
})

it.each(['x.localhost', '3000.localhost', '3000-box.example.org', '03000-box.localhost', '3000-box.localhost.evil'])(
  'the host %s is no port',
  async (host) => {
    const test = await openTestProxy()
    test.expose(3000)
    const socket = await test.dial()
    socket.end(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
    expect(await text(socket)).toContain('not a port')
  },
)
