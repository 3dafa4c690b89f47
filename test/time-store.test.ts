import { type Fault, type FaultProxy, openFaultProxy, openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import type { BranchesResponse, ExecutionResult, Instance, Problem, Snapshot } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { call, untilUploaded } from './time-node.ts'

/** What goes wrong with the object store of a whole node. */

let skip: string | undefined
let s3: S3Server
let bucket = ''
let proxy: FaultProxy
/** It has the object store for itself; what it puts there, the other one has to get through the faults. */
let author: LiveNode
let node: LiveNode

const open = async (): Promise<string | undefined> => {
  const server = await openS3Server()
  if ('skip' in server) return server.skip
  s3 = server
  bucket = await s3.newBucket()
  proxy = await openFaultProxy(s3.endpoint)
  for (const endpoint of [undefined, proxy.endpoint]) {
    const env = { BRAMBLE_OBJECT_STORE_URL: s3.url(bucket, endpoint), BRAMBLE_LOG_LEVEL: 'silent' }
    const opened = await openLiveNode({ env })
    if ('skip' in opened) return opened.skip
    if (endpoint === undefined) author = opened
    else node = opened
  }
  return undefined
}
beforeAll(async () => {
  skip = await open()
})
afterAll(async () => {
  await author?.[Symbol.asyncDispose]()
  await node?.[Symbol.asyncDispose]()
  await proxy?.close()
  await s3?.close()
})
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

const restore = (at: LiveNode, id: string): Promise<Instance> => call(at, 'POST', `snapshots/${id}/restore`, {})
const contentOf = async (at: LiveNode, snapshot: string): Promise<string> => {
  const { id } = await restore(at, snapshot)
  const content = await at.sh(id, 'cat /root/file')
  await call(at, 'DELETE', `instances/${id}`)
  return content
}
/** A snapshot of a file of its own, of a kilobyte or so. */
const authored = async (at: LiveNode, content: string): Promise<string> => {
  const box = await at.start({})
  await at.sh(box.id, `echo ${content} > /root/file; seq 1 300 > /root/more`)
  const { id } = await call<Snapshot>(at, 'POST', 'snapshots', { instanceId: box.id, memory: false })
  await call(at, 'DELETE', `instances/${box.id}`)
  return id
}

const isData = ({ method, path }: { method: string; path: string }): boolean =>
  method === 'GET' && path.includes('/blobs/')

describe('an object store that', () => {
  const FAULTS: Readonly<Record<string, Fault | 'down'>> = {
    'is down': 'down',
    'never answers': { kind: 'hang' },
    'answers 500': { kind: 'status', status: 500, code: 'InternalError' },
    'answers 403': { kind: 'status', status: 403, code: 'AccessDenied' },
    'cuts connections': { kind: 'cut' },
  }
  test.each(Object.keys(FAULTS))('%s: what does not need it goes on, the rest is told; it catches up', async (name) => {
    const fault = FAULTS[name] ?? 'down'
    if (fault === 'down') await proxy.down()
    else proxy.fault = () => fault
    const remote = await authored(author, name.replaceAll(' ', '-'))
    await untilUploaded(author)
    const box = await node.start({})
    await node.sh(box.id, 'echo own > /root/file')
    const results = await Promise.all([
      call<ExecutionResult>(node, 'POST', 'execute', { command: 'echo on' }),
      call<ExecutionResult>(node, 'POST', 'execute', { command: `echo ${bucket} ${name}`, mode: 'cached' }),
      call<ExecutionResult>(node, 'POST', 'execute', { command: 'echo on', mode: 'checkpointed' }),
    ])
    expect(results.map(({ status }) => status)).toEqual(['succeeded', 'succeeded', 'succeeded'])
    const own = await call<Snapshot>(node, 'POST', 'snapshots', { instanceId: box.id, memory: false })
    expect(await contentOf(node, own.id)).toBe('own\n')
    const { items } = await call<BranchesResponse>(node, 'POST', 'branches', {
      parent: box.id,
      count: 1,
      memory: false,
    })
    expect(await node.sh(items[0]?.instanceId ?? '', 'cat /root/file')).toBe('own\n')
    const refused = await node.ask('POST', `/api/v1/snapshots/${remote}/restore`, { json: {} })
    expect([refused.status, refused.code], refused.text).toEqual([503, 'store_unavailable'])
    expect(refused.json<Problem>()).toMatchObject({ retryable: true, detail: expect.stringContaining('s3://') })
    const { lowerTier, pendingUploads } = await call<{ lowerTier: object; pendingUploads: number }>(
      node,
      'GET',
      'store',
    )
    expect(lowerTier).toMatchObject({ available: false, reason: expect.any(String) })
    expect(pendingUploads).toBeGreaterThan(0)
    proxy.fault = undefined
    await proxy.up()
    await untilUploaded(node)
    expect(await contentOf(node, remote)).toBe(`${name.replaceAll(' ', '-')}\n`)
    expect(await contentOf(author, own.id)).toBe('own\n')
    for (const id of [box.id, items[0]?.instanceId]) await call(node, 'DELETE', `instances/${id}`)
  })

  test('is slow: all of it works', async () => {
    proxy.fault = () => ({ kind: 'slow', delayMs: 300 })
    const remote = await authored(author, 'slow')
    await untilUploaded(author)
    expect(await contentOf(node, remote)).toBe('slow\n')
    const own = await authored(node, 'own')
    proxy.fault = undefined
    await untilUploaded(node)
    expect(await contentOf(author, own)).toBe('own\n')
  })

  const LIES: Readonly<Record<string, Fault>> = {
    'another bit': { kind: 'flip', at: 20, of: 'answer' },
    'another bit at the end': { kind: 'flip', at: 150, of: 'answer' },
    'less than all': { kind: 'truncate', bytes: 60, silent: true },
  }
  test.each(Object.keys(LIES))('lies about bodies (%s): nothing of that is used', async (name) => {
    const remote = await authored(author, 'true')
    proxy.fault = (request) => (isData(request) ? LIES[name] : undefined)
    await untilUploaded(author)
    const answer = await node.ask('POST', `/api/v1/snapshots/${remote}/restore`, { json: {} })
    expect(['blob_corrupt', 'store_unavailable'], answer.text).toContain(answer.code)
    expect(answer.json<Problem>().retryable).toBe(true)
    proxy.fault = undefined
    await untilUploaded(node)
    expect(await contentOf(node, remote)).toBe('true\n')
  })
})
