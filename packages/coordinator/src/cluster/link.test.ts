import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { BrambleError, type JobEvent, type JobId, type NodeId, newId } from '@bramble/protocol'
import { afterEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { Network } from '../network/network.ts'
import { aNodeId } from '../testing/records.ts'
import { jobRequest, joinWorker, openTestNetwork } from '../testing/test-network.ts'
import { networkBy } from './calls.ts'
import { LINK_PATH } from './handshake.ts'
import { openLink } from './link.ts'
import { openLinkServer } from './link-server.ts'

const SECRET = new Uint8Array(32).fill(3)
const ends: (() => Promise<unknown> | unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const serve = async (served: Network | (() => Network | undefined)) => {
  const network = typeof served === 'function' ? served : () => served
  const links = openLinkServer({ secret: SECRET, network })
  const sockets = new Set<Socket>()
  const server = createServer()
  server.on('connection', (socket) => sockets.add(socket))
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy())
    const [path = '', query] = (request.url ?? '').split('?')
    if (!links.handle({ request, socket, head, requestId: 'req', path, query: new URLSearchParams(query) }))
      socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const hangUp = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  ends.push(async () => {
    hangUp()
    server.close()
    await once(server, 'close')
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, links, hangUp, sockets }
}

const linkTo = async (url: string, onClosed = () => {}): Promise<Network> => {
  const link = await openLink({ url, secret: SECRET, name: 'one', timeoutMs: 5_000, onClosed })
  ends.push(() => link.close())
  return link
}

/** A network that is what the test says. */
const networkOf = (parts: Partial<Parameters<typeof networkBy>[1]> & { call?: Parameters<typeof networkBy>[0] }) => {
  const none = (): never => {
    throw new BrambleError('unsupported', { detail: 'not in this test' })
  }
  const { call = async () => none(), events = none, session = none, close = async () => {} } = parts
  return networkBy(call, { events, session, close })
}

describe('a link to the coordinator that writes', () => {
  test('is its network: jobs, nodes, sessions, events', async () => {
    const real = await openTestNetwork()
    ends.push(() => real.network.close())
    const { url } = await serve(real.network)
    const network = await linkTo(`${url}/`)
    const worker = await joinWorker({ network }, { answer: () => 'hi' })
    const request = jobRequest({ redundancy: 1, consensus: 1 })
    const { job } = await network.jobs.submit({ tenant: 'default', request })
    const seen: JobEvent[] = []
    for await (const event of network.jobs.events(job.id, 'default')) seen.push(event)
    expect(seen.at(-1)).toMatchObject({ type: 'job', job: { status: 'completed' } })
    expect(await network.jobs.get(job.id, 'default')).toEqual(await real.network.jobs.get(job.id, 'default'))
    expect(await network.nodes.publicKey(aNodeId(1))).toBeUndefined()
    expect((await network.nodes.get(worker.identity.id)).status).toBe('online')
    worker.session.close()
    await expect.poll(async () => (await network.nodes.get(worker.identity.id)).status).toBe('suspect')
  })

  test('passes arguments, values and errors on as they are', async () => {
    const calls: unknown[][] = []
    const issues = [{ path: 'command', message: 'is missing' }]
    const { url } = await serve(
      networkOf({
        call: async <T>(method: string, args: readonly unknown[]) => {
          calls.push([method, ...args])
          if (method === 'jobs.get')
            throw new BrambleError('queue_full', { detail: 'a \ud800 b', retryAfterMs: 77, issues })
          if (method === 'stats') throw new TypeError('a bug')
          return (method === 'credit' ? { text: 'a\u0000b\ud800', none: null } : undefined) as T
        },
      }),
    )
    const network = await linkTo(url)
    expect(await network.credit('a\u0000', 3)).toEqual({ text: 'a\u0000b\ud800', none: null })
    await network.putDocument('key', 'k', undefined)
    await network.nodes.heartbeat(aNodeId(1), [])
    expect(calls).toEqual([
      ['credit', 'a\u0000', 3],
      ['putDocument', 'key', 'k', undefined],
      ['nodes.heartbeat', aNodeId(1), [], undefined],
    ])
    const refused = await network.jobs.get('job_x' as JobId, 't').catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'queue_full', detail: 'a \ud800 b', retryAfterMs: 77, issues })
    await expect(network.stats()).rejects.toMatchObject({ code: 'internal' })
  })

  test('tells the other side of what nobody waits for any more', async () => {
    const aborted = Promise.withResolvers<void>()
    const { url } = await serve(
      networkOf({
        call: <T>(_method: string, _args: readonly unknown[], signal?: AbortSignal) =>
          new Promise<T>((_resolve, reject) => {
            signal?.addEventListener('abort', () => {
              aborted.resolve()
              reject(signal.reason)
            })
          }),
      }),
    )
    const network = await linkTo(url)
    const ending = new AbortController()
    const polling = network.nodes.poll(aNodeId(1), { waitMs: 1, max: 1, signal: ending.signal })
    ending.abort(new Error('enough'))
    await expect(polling).rejects.toThrow('enough')
    await aborted.promise
    await expect(
      network.nodes.poll(aNodeId(1), { waitMs: 1, max: 1, signal: AbortSignal.abort(new Error('before')) }),
    ).rejects.toThrow('before')
  })

  test('takes no more events than are read, and ends the stream that nobody reads', async () => {
    let made = 0
    const ended = Promise.withResolvers<void>()
    const { url } = await serve(
      networkOf({
        events: async function* () {
          try {
            for (;;) yield { type: 'corrected', at: '', seq: ++made, resultHash: 'x'.repeat(1000) } as JobEvent
          } finally {
            ended.resolve()
          }
        },
      }),
    )
    const network = await linkTo(url)
    let read = 0
    for await (const event of network.jobs.events(newId('job') as JobId, 't')) {
      expect(event.seq).toBe(++read)
      expect(made - read).toBeLessThanOrEqual(100)
      if (read === 1000) break
    }
    await ended.promise
  })

  test('rejects all that was asked when it breaks, and says so once; the other side closes its sessions', async () => {
    const closed = Promise.withResolvers<void>()
    const { url, hangUp } = await serve(
      networkOf({
        call: () => new Promise(() => {}),
        session: async () => ({
          welcome: { type: 'welcome', session: 's', heartbeatMs: 1, leaseMs: 1, keep: [] },
          frame: () => new Promise(() => {}),
          close: () => closed.resolve(),
        }),
      }),
    )
    let told = 0
    const network = await linkTo(url, () => told++)
    const command = { node: aNodeId(1) as NodeId, report: {} as never, running: [], subnet: '' }
    const session = await network.session(command, () => {})
    const asked = [network.stats(), session.frame({ type: 'drain' })].map((promise) =>
      promise.catch((error: { code: string }) => error.code),
    )
    hangUp()
    expect(await Promise.all(asked)).toEqual(['not_leader', 'not_leader'])
    await closed.promise
    await expect(network.stats()).rejects.toMatchObject({ code: 'not_leader', retryAfterMs: expect.any(Number) })
    expect(told).toBe(1)
  })

  test('is refused by a coordinator that does not write, and is over when one ceases to', async () => {
    let writer: Network | undefined
    const { url, links } = await serve(() => writer)
    const opening = () => openLink({ url, secret: SECRET, name: 'one', timeoutMs: 5_000, onClosed: () => {} })
    await expect(opening()).rejects.toMatchObject({ code: 'not_leader' })
    writer = networkOf({})
    const over = Promise.withResolvers<void>()
    await linkTo(url, () => over.resolve())
    links.drop()
    await over.promise
  })

  test.each([
    ['another secret', { secret: new Uint8Array(32).fill(4) }],
    ['another path', { path: 'x/' }],
  ])('is not made with %s', async (_what, { secret = SECRET, path = '' }: { secret?: Uint8Array; path?: string }) => {
    const { url } = await serve(networkOf({}))
    await expect(
      openLink({ url: `${url}/${path}`, secret, name: 'one', timeoutMs: 5_000, onClosed: () => {} }),
    ).rejects.toMatchObject({ code: 'connection_failed' })
  })

  test('is not made to what is not there, nor to what says nothing', async () => {
    const silent = createServer()
    const held: Duplex[] = []
    silent.on('upgrade', (_request, socket) => held.push(socket))
    silent.listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`
    const opening = () => openLink({ url, secret: SECRET, name: 'one', timeoutMs: 30, onClosed: () => {} })
    await expect(opening()).rejects.toMatchObject({ code: 'connection_failed' })
    for (const socket of held) socket.destroy()
    silent.close()
    await once(silent, 'close')
    await expect(opening()).rejects.toMatchObject({ code: 'connection_failed' })
  })

  test.each([
    ['garbage', ['hello']],
    ['another protocol', [JSON.stringify({ type: 'hello' })]],
    ['nothing that is text', [Buffer.from([0, 255, 254])]],
    ['more than any hello', ['x'.repeat(100_000)]],
  ])('is ended by the writer for %s', async (_what, messages) => {
    const { url } = await serve(networkOf({}))
    const ws = new WebSocket(`${url.replace('http', 'ws')}${LINK_PATH}`)
    ws.on('error', () => {})
    ws.once('message', () => {
      for (const message of messages) ws.send(message)
    })
    await once(ws, 'close')
  })

  test('is ended by the writer for a message without an end', async () => {
    const { url } = await serve(networkOf({}))
    const ws = new WebSocket(`${url.replace('http', 'ws')}${LINK_PATH}`)
    ws.on('error', () => {})
    let sent = 0
    ws.once('message', () => {
      const more = (): void => {
        if (ws.readyState !== ws.OPEN) return
        ws.send('x'.repeat(10_000), { fin: false })
        sent += 10_000
        setImmediate(more)
      }
      more()
    })
    await once(ws, 'close')
    expect(sent).toBeLessThan(1_000_000)
  })
})
