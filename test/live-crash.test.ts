import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Instance } from '@bramble/protocol'
import { launcherOf } from '@bramble/runtime/testing'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { cgroupsOf, descriptorsOf } from './leftovers.ts'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectStream, type LiveSocket } from './live-socket.ts'

let node: LiveNode
let skip: string | undefined
beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

const call = (method: string, path: string, json?: unknown) => node.ask(method, `/api/v1/${path}`, { json })
const remove = async (id: string): Promise<void> => {
  expect((await call('DELETE', `instances/${id}`)).status).toBe(204)
}
const seqsOf = ({ messages }: LiveSocket): number[] =>
  messages.flatMap(({ seq, type }) => (type !== 'state' && typeof seq === 'number' ? [seq] : []))

test('a stream over a node that is killed twice: no event is missing, none comes twice', async () => {
  const box = await node.start({})
  const LINES = 300
  const count = (name: string): string =>
    `i=0; while [ $i -lt ${LINES} ]; do echo ${name} $i; i=$((i+1)); usleep 7000; done`
  const seen: { seqs: number[]; output: Record<string, string> } = { seqs: [], output: { a: '', b: '' } }
  let stream = await connectStream(node, box.id)
  for (const id of ['a', 'b']) stream.send({ type: 'exec', id, command: count(id) })
  const take = (): void => {
    seen.seqs.push(...seqsOf(stream))
    for (const id of ['a', 'b']) seen.output[id] += stream.output(id)
    stream[Symbol.dispose]()
  }
  for (let kills = 0; kills < 2; kills++) {
    await stream.until(() => seqsOf(stream).length >= 60)
    await node.kill()
    await stream.closed
    take()
    await node.again()
    stream = await connectStream(node, box.id, { query: `since=${seen.seqs.at(-1)}&processes=false` })
  }
  await stream.until(() => stream.messages.filter(({ type }) => type === 'exit').length === 2)
  take()
  expect(seen.seqs).toEqual(seen.seqs.map((_, index) => index + 1))
  for (const id of ['a', 'b'])
    expect(seen.output[id]).toBe(Array.from({ length: LINES }, (_, index) => `${id} ${index}\n`).join(''))
  await remove(box.id)
})

test('volumes and caches that are in use by whoever lives on are still theirs', async () => {
  await call('PUT', 'volumes/data', { sizeMb: 64 })
  const spec = { volumes: [{ name: 'data', path: '/data' }], caches: ['npm' as const] }
  const box = await node.start(spec)
  const writer = 'i=0; while :; do i=$((i+1)); echo $i > /data/next && mv /data/next /data/count; done'
  using stream = await connectStream(node, box.id)
  stream.send({ type: 'exec', id: 'writer', command: writer })
  await stream.event('started')
  await node.sh(box.id, 'mkdir -p /root/.npm/_cacache; echo own > /root/.npm/_cacache/own; sync')
  await node.kill()
  await node.again()
  const countOf = async (id: string): Promise<number> => Number(await node.sh(id, 'cat /data/count'))
  const first = await countOf(box.id)
  const other = await node.start(spec)
  expect(await countOf(other.id)).toBeGreaterThanOrEqual(first)
  expect(await node.sh(box.id, 'cat /root/.npm/_cacache/own')).toBe('own\n')
  expect((await call('DELETE', 'volumes/data')).code).toBe('conflict')
  expect((await call('GET', 'volumes/data')).json()).toMatchObject({
    usedBy: expect.arrayContaining([box.id, other.id]),
  })
  await Promise.all([remove(box.id), remove(other.id)])
  expect((await call('DELETE', 'volumes/data')).status).toBe(204)
  expect((await call('GET', 'volumes')).json<{ items: { kind: string }[] }>().items).not.toContainEqual(
    expect.objectContaining({ kind: 'volume' }),
  )
})

/** After so long the node is killed, in milliseconds: some of what was asked for is done then, some half, some not begun. */
const MOMENTS = [0, 4, 9, 15, 22, 30, 45, 70]

test('a node that is killed while instances are made, started, stopped, paused and deleted', {
  timeout: 180_000,
}, async () => {
  const descriptors = new Set<number>()
  for (const moment of MOMENTS) {
    const spec = { network: 'egress' as const }
    const [stopping, starting, pausing, resuming, deleting] = (await Promise.all(
      Array.from({ length: 5 }, () => node.start(spec)),
    )) as [Instance, Instance, Instance, Instance, Instance]
    for (const { id } of [stopping, starting, pausing, resuming, deleting]) await node.sh(id, `echo ${id} > /root/mark`)
    await Promise.all([call('POST', `instances/${starting.id}/stop`), call('POST', `instances/${resuming.id}/pause`)])
    const asked = [
      call('POST', 'instances', { ...spec, name: 'made' }),
      call('POST', `instances/${stopping.id}/stop`),
      call('POST', `instances/${starting.id}/start`),
      call('POST', `instances/${pausing.id}/pause`),
      call('POST', `instances/${resuming.id}/resume`),
      call('DELETE', `instances/${deleting.id}`),
    ]
    const answered = asked.map((each) => each.then(({ status }) => status).catch(() => undefined))
    await new Promise((resolve) => setTimeout(resolve, moment))
    await node.kill()
    const [made, stopped, started, paused, resumed, deleted] = await Promise.all(answered)
    await node.again()

    const { items } = (await call('GET', 'instances')).json<{ items: Instance[] }>()
    const statusOf = (id: string) => items.find((each) => each.id === id)?.status
    // What was answered is so.
    if (made === 201) expect(items.find(({ name }) => name === 'made')?.status).toBe('running')
    if (stopped === 200) expect(statusOf(stopping.id)).toBe('stopped')
    if (started === 200) expect(statusOf(starting.id)).toBe('running')
    if (paused === 200) expect(statusOf(pausing.id)).toBe('paused')
    if (resumed === 200) expect(statusOf(resuming.id)).toBe('running')
    if (deleted === 204) expect(statusOf(deleting.id)).toBe(undefined)
    // What was not is one of two, and nothing is between them.
    expect(['running', 'stopped']).toContain(statusOf(stopping.id))
    expect(['running', 'stopped']).toContain(statusOf(starting.id))
    expect(['running', 'paused']).toContain(statusOf(pausing.id))
    expect(['running', 'paused']).toContain(statusOf(resuming.id))
    expect(['running', undefined]).toContain(statusOf(deleting.id))
    const boxes = items.filter(({ status }) => status === 'running' || status === 'paused')
    expect(cgroupsOf(node.dataDirectory)).toHaveLength(boxes.length)
    // And each of them works, on the files it had.
    for (const { id, name, status } of items) {
      if (status === 'stopped') expect((await call('POST', `instances/${id}/start`)).status).toBe(200)
      if (name !== 'made') expect(await node.sh(id, 'cat /root/mark')).toBe(`${id}\n`)
      else expect(await node.sh(id, 'echo fresh')).toBe('fresh\n')
    }
    await Promise.all(items.map(({ id }) => remove(id)))
    expect(cgroupsOf(node.dataDirectory)).toEqual([])
    expect(readdirSync(join(node.dataDirectory, 'uploads'))).toEqual([])
    // It keeps a bounded number of user namespaces for the ranges of ids that come again.
    const held = descriptorsOf(Number(launcherOf(node.dataDirectory))).filter((target) => !target.startsWith('user:'))
    descriptors.add(held.length)
  }
  expect([...descriptors]).toHaveLength(1)
})
