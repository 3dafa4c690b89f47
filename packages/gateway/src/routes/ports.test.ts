import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { openGateway } from '../index.ts'

interface Exposed {
  readonly url: string
  readonly byHost?: string
  readonly expiresAt?: string
}

describe('ports of an instance without a network', { timeout: 60_000 }, () => {
  let node: RealNode
  let skip: string | undefined
  let id = ''
  beforeAll(async () => {
    const opened = await openRealNode()
    if ('skip' in opened) {
      skip = opened.skip
      return
    }
    node = opened
    id = (await node.start({ name: 'web', network: 'none' })).id
    await node.sh('web', 'mkdir -p /www/dir; echo page > /www/index.html; httpd -p 8000 -h /www')
  }, 60_000)
  beforeEach(({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
  })
  afterAll(() => node?.[Symbol.asyncDispose]())

  const expose = async (json: object, key?: string): Promise<Exposed> => {
    const response = await node.fetch('/api/v1/instances/web/ports', { json, ...(key !== undefined && { key }) })
    expect(response.status).toBe(200)
    return (await response.json()) as Exposed
  }
  const plain = (url: string) => fetch(url, { redirect: 'manual' })

  it('are reached by path and by host name: with a key, a signed URL, or by everybody', async () => {
    const { url, byHost, expiresAt } = await expose({ port: 8000 })
    expect(url).toBe(`${node.gateway.url}/p/${id}/8000/`)
    expect([byHost, expiresAt]).toEqual([`http://8000-web.localhost:${node.gateway.port}/`, undefined])
    expect((await plain(url)).status).toBe(401)
    expect(await (await node.fetch('/p/web/8000/')).text()).toBe('page\n')
    const ask = httpRequest({ port: node.gateway.port, headers: { host: new URL(byHost ?? '').host } }).end()
    expect(((await once(ask, 'response')) as [IncomingMessage])[0].statusCode).toBe(401)

    const signed = await expose({ port: 8000, signedForMs: 60_000 })
    expect(await (await plain(signed.url)).text()).toBe('page\n')
    expect(Date.parse(signed.expiresAt ?? '')).toBeGreaterThan(Date.now())

    const open = await expose({ port: 8000, visibility: 'public' })
    expect(await (await plain(open.url)).text()).toBe('page\n')
    const byName = httpRequest({
      port: node.gateway.port,
      headers: { host: `8000-${id.replace('_', '-')}.localhost` },
    }).end()
    expect(await text(((await once(byName, 'response')) as [IncomingMessage])[0])).toBe('page\n')
    // By path, the redirect of a folder stays where it is.
    expect((await plain(`${open.url}dir`)).headers.get('location')).toMatch(new RegExp(`/p/${id}/8000/dir/$`))
  })

  it('are listed with what listens there, and closed again, signed URLs with them', async () => {
    const { url } = await expose({ port: 8000, visibility: 'private', signedForMs: 60_000 })
    await expose({ port: 9000 })
    const list = await (await node.fetch('/api/v1/instances/web/ports')).json()
    expect(list).toMatchObject({
      items: [
        { port: 8000, command: expect.stringContaining('httpd'), exposed: { port: 8000, visibility: 'private' } },
      ],
      exposed: [{ port: 8000 }, { port: 9000 }],
    })
    expect((await node.fetch('/p/web/9000/')).status).toBe(502)
    for (const port of [8000, 9000])
      expect((await node.fetch(`/api/v1/instances/web/ports/${port}`, { method: 'DELETE' })).status).toBe(204)
    expect((await node.fetch('/api/v1/instances/web/ports/8000', { method: 'DELETE' })).status).toBe(404)
    expect((await node.fetch('/p/web/8000/')).status).toBe(404)
    expect((await plain(url)).status).toBe(401)
    await expose({ port: 8000 })
    // Exposed anew, the old signature stays void.
    expect((await plain(url)).status).toBe(401)
  })

  it('are nothing to another tenant, nor to a key that may only read', async () => {
    await expose({ port: 8000, visibility: 'private' })
    const [other, reader] = [await node.newKey({ tenant: 'other' }), await node.newKey({ scopes: ['read'] })]
    expect((await node.fetch(`/p/${id}/8000/`, { key: other.key })).status).toBe(404)
    expect((await node.fetch(`/p/${id}/8000/`, { key: reader.key })).status).toBe(403)
    expect((await node.fetch('/api/v1/instances/web/ports', { json: { port: 1 }, key: reader.key })).status).toBe(403)
    for (const init of [{ json: { port: 8000 } }, {}])
      expect((await node.fetch(`/api/v1/instances/${id}/ports`, { ...init, key: other.key })).status).toBe(404)
  })

  it.each([
    { port: 0 },
    { port: 65_536 },
    { port: '80' },
    { port: 80, visibility: 'open' },
    { port: 80, signedForMs: 1 },
    {
      port: 80,
      visibility: 'public',
      signedForMs: 60_000,
    },
  ])('%o is not a port to expose', async (json) => {
    expect((await node.fetch('/api/v1/instances/web/ports', { json })).status).toBe(400)
  })

  it('carry a large download unchanged', async () => {
    await node.sh('web', 'dd if=/dev/urandom of=/www/big bs=1M count=300 2>/dev/null')
    const sum = (await node.sh('web', 'sha256sum /www/big')).split(' ')[0]
    await expose({ port: 8000, visibility: 'private' })
    const before = process.memoryUsage().rss
    const response = await node.fetch('/p/web/8000/big')
    const hash = createHash('sha256')
    for await (const chunk of response.body ?? []) hash.update(chunk as Uint8Array)
    expect(hash.digest('hex')).toBe(sum)
    expect(process.memoryUsage().rss - before).toBeLessThan(150_000_000)
    await node.sh('web', 'rm /www/big')
  })

  it('resume a paused instance; of a stopped one they say that it is stopped', async () => {
    const paused = await node.start({ name: 'paused' })
    await node.sh('paused', 'mkdir /www; echo awake > /www/index.html; httpd -p 8000 -h /www')
    await node.fetch(`/api/v1/instances/${paused.id}/ports`, { json: { port: 8000 } })
    expect((await node.fetch('/p/paused/8000/')).status).toBe(200)
    await node.fetch('/api/v1/instances/paused/pause', { method: 'POST' })
    expect(await (await node.fetch('/p/paused/8000/')).text()).toBe('awake\n')
    await node.fetch('/api/v1/instances/paused/stop', { method: 'POST' })
    const stopped = await node.fetch('/p/paused/8000/')
    expect([stopped.status, ((await stopped.json()) as { code: string }).code]).toEqual([409, 'instance_stopped'])
    const list = await (await node.fetch('/api/v1/instances/paused/ports')).json()
    expect(list).toMatchObject({ items: [], exposed: [{ port: 8000 }] })
    await node.fetch('/api/v1/instances/paused', { method: 'DELETE' })
    expect((await node.fetch('/p/paused/8000/')).status).toBe(404)
  })

  it('are there again after a restart of the gateway', async () => {
    await expose({ port: 8000, visibility: 'public' })
    await using again = await openGateway({ engine: node.engine, dataDirectory: node.directory, port: 0, version: '1' })
    expect(await (await plain(`${again.url}/p/web/8000/`)).text()).toBe('page\n')
  })
})
