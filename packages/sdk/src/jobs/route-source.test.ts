import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { problem } from '../../test/samples.ts'
import { json, type Script, scriptedServer } from '../../test/scripted-server.ts'
import { Bramble } from '../index.ts'

const node = `0x${'1'.repeat(40)}`
const instance = newId('instance')
const later = (ms: number) => new Date(Date.now() + ms).toISOString()
const routeTo = (url: string, token = 'first', expiresAt = later(300_000)): Script =>
  json({ node, url, token, expiresAt, instance })
const list: Script = json({ items: [], nextCursor: null })

const clientOf = (url: string) =>
  new Bramble({ url, apiKey: 'k', backoff: { firstBackoffMs: 1, maxBackoffMs: 2 } }).network.client({ user: 'ann' })

test('one route serves many requests, and is asked for with the key of the network alone', async () => {
  await using at = await scriptedServer(list, list, list)
  await using network = await scriptedServer(routeTo(at.url))
  const client = clientOf(network.url)
  await Promise.all([client.snapshots.list().all(), client.snapshots.list().all()])
  await client.snapshots.list().all()
  expect(network.requests.map(({ path }) => path)).toEqual(['/api/v1/route?user=ann'])
  expect(network.requests[0]?.headers.authorization).toBe('Bearer k')
  expect(at.requests.map(({ headers }) => headers.authorization)).toEqual(Array(3).fill('Bearer first'))
})

test('a request that finds its node gone goes where the route leads then', async () => {
  await using gone = await scriptedServer()
  const { url } = gone
  await gone[Symbol.asyncDispose]()
  await using at = await scriptedServer(list)
  await using network = await scriptedServer(routeTo(url), routeTo(url), routeTo(at.url, 'second'))
  await clientOf(network.url).snapshots.list().all()
  expect(network.requests).toHaveLength(3)
  expect(at.requests[0]?.headers.authorization).toBe('Bearer second')
})

test('a token that is refused or about to expire is replaced; what was refused is sent again, whatever it is', async () => {
  await using at = await scriptedServer(
    problem('unauthorized'),
    json({
      instanceId: instance,
      status: 'succeeded',
      exitCode: 0,
      stdout: '',
      stderr: '',
      encoding: 'utf8',
      truncated: false,
      execMs: 1,
    }),
    list,
  )
  await using network = await scriptedServer(
    routeTo(at.url),
    routeTo(at.url, 'second', later(1000)),
    routeTo(at.url, 'third'),
  )
  const client = clientOf(network.url)
  await client.instances.stop(instance).catch(() => undefined)
  await client.snapshots.list().all()
  expect(at.requests.map(({ headers }) => headers.authorization)).toEqual([
    'Bearer first',
    'Bearer second',
    'Bearer third',
  ])
})

test('an error of the node itself is the caller’s, and changes no route', async () => {
  await using at = await scriptedServer(problem('forbidden'), list)
  await using network = await scriptedServer(routeTo(at.url))
  const client = clientOf(network.url)
  await expect(client.snapshots.list().all()).rejects.toMatchObject({ code: 'forbidden' })
  await client.snapshots.list().all()
  expect(network.requests).toHaveLength(1)
})

test('whoever leaves does not take the route along for others', async () => {
  let answer = (): void => {}
  await using at = await scriptedServer(list)
  await using network = await scriptedServer((socket, request) => {
    answer = () => routeTo(at.url)(socket, request)
  })
  const client = clientOf(network.url)
  const leaving = new AbortController()
  const left = client.snapshots.get('one', { signal: leaving.signal })
  const stays = client.snapshots.list().all()
  await expect.poll(() => network.requests.length).toBe(1)
  leaving.abort()
  await expect(left).rejects.toMatchObject({ code: 'cancelled' })
  answer()
  expect(await stays).toEqual([])
})
