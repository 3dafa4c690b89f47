import { createHash } from 'node:crypto'
import { executionResultSchema } from '@bramble/protocol'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allEvents, openTestNode, outputOf, problemOf, type TestNode } from '../../test/test-node.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode()
})
afterAll(() => node[Symbol.asyncDispose]())

const run = async (body: object, key?: string) => {
  const response = await node.fetch('/api/v1/execute', { json: { mode: 'cached', ...body }, ...(key && { key }) })
  expect(response.status).toBe(200)
  return executionResultSchema.parse(await response.json())
}

describe('mode cached over HTTP', () => {
  test('answers again what it has, with an id and times of its own, and records it', async () => {
    const first = await run({ command: 'echo "\\"quoted\\" ü"; echo no >&2' })
    const again = await run({ command: 'echo "\\"quoted\\" ü"; echo no >&2', labels: { a: 'b' } })
    expect(first.cached).toBe(false)
    expect(again.cached).toBe(true)
    expect(again.id).not.toBe(first.id)
    const { stdout, stderr, exitCode, inputHash, resultHash, outputs, image } = first
    expect(again).toMatchObject({ stdout, stderr, exitCode, inputHash, resultHash, outputs, image })
    expect(again.timings).toMatchObject({ queuedMs: 0, startMs: 0, execMs: 0 })
    const record = await (await node.fetch(`/api/v1/executions/${again.id}`)).json()
    expect(record).toMatchObject({ id: again.id, status: 'succeeded', labels: { a: 'b' }, result: again })
  })

  test('streams a hit as it streams a run', async () => {
    const stream = async () => {
      const headers = { accept: 'text/event-stream' }
      const json = { mode: 'cached', command: 'echo streamed' }
      return await allEvents(await node.fetch('/api/v1/execute', { json, headers }))
    }
    for (const messages of [await stream(), await stream()]) {
      expect(messages.map(({ event }) => event)).toEqual(['queued', 'started', 'stdout', 'exit', 'result'])
      expect(outputOf(messages, 'stdout').toString()).toBe('streamed\n')
    }
  })

  test('answers items of a batch', async () => {
    const items = [1, 1, 2].map((n) => ({ mode: 'cached', command: `echo item ${n}` }))
    const batch = async () => (await (await node.fetch('/api/v1/batch', { json: { items } })).json()).items
    const first: { result: { stdout: string; cached: boolean } }[] = await batch()
    expect(first.map(({ result }) => result.stdout)).toEqual(['item 1\n', 'item 1\n', 'item 2\n'])
    const again: typeof first = await batch()
    expect(again.map(({ result }) => result.cached)).toEqual([true, true, true])
  })

  test('another tenant has results of its own', async () => {
    const other = await node.newKey({ tenant: 'other', scopes: ['execute', 'read'] })
    await run({ command: 'echo whose' })
    expect((await run({ command: 'echo whose' }, other.key)).cached).toBe(false)
  })

  test('shows what it has, and forgets it', async () => {
    const { key } = await node.newKey({ tenant: 'forgetful', scopes: ['execute', 'read'] })
    const stats = async () => await (await node.fetch('/api/v1/cache', { key })).json()
    const forget = (json: object) => node.fetch('/api/v1/cache', { method: 'DELETE', json, key })
    const { inputHash } = await run({ command: 'echo a' }, key)
    await run({ command: 'echo b', labels: { kind: 'b' } }, key)
    await run({ command: 'echo a' }, key)
    expect(await stats()).toMatchObject({ entries: 2, hits: 1, misses: 2, joined: 0 })
    expect(await (await forget({ key: inputHash })).json()).toEqual({ forgotten: 1 })
    expect((await run({ command: 'echo a' }, key)).cached).toBe(false)
    expect(await (await forget({ label: 'kind=b' })).json()).toEqual({ forgotten: 1 })
    expect((await run({ command: 'echo b' }, key)).cached).toBe(false)
    expect(await (await forget({ image: 'base' })).json()).toEqual({ forgotten: 2 })
    expect(await stats()).toMatchObject({ entries: 0 })
    expect((await problemOf(await forget({}))).code).toBe('invalid_request')
  })

  test('is counted', async () => {
    await run({ command: 'echo counted' })
    await run({ command: 'echo counted' })
    const text = await (await node.fetch('/metrics')).text()
    expect(text).toMatch(/bramble_cache_requests_total\{outcome="hit_memory"\} [1-9]/)
    expect(text).toMatch(/bramble_cache_requests_total\{outcome="miss"\} [1-9]/)
    expect(text).toMatch(/bramble_cache_entries [1-9]/)
  })

  test('what an image name leads to is asked each time', async () => {
    const first = await run({ command: 'echo moved', image: 'base' })
    const { makeRootfsTar } = await import('../../test/test-node.ts')
    const path = await makeRootfsTar(node.directory, 'another')
    await node.engine.images.import({ kind: 'rootfsTar', path }, { name: 'base' })
    const second = await run({ command: 'echo moved', image: 'base' })
    expect(second.cached).toBe(false)
    expect(second.image).not.toBe(first.image)
    expect((await run({ command: 'echo moved', image: first.image })).cached).toBe(true)
  })
})

describe('blobs over HTTP', () => {
  const bytes = Buffer.from('the bytes of a blob')
  const hash = createHash('sha256').update(bytes).digest('hex')
  const put = (query = '', init: RequestInit & { key?: string } = {}) =>
    node.fetch(`/api/v1/blobs${query}`, { method: 'PUT', body: bytes, ...init })

  test('are put, read whole and in part, listed, and given up', async () => {
    const answer = await put(`?expect=${hash}`)
    expect(answer.status).toBe(200)
    expect(await answer.json()).toMatchObject({ hash, sizeBytes: bytes.length, origin: 'put' })
    const whole = await node.fetch(`/api/v1/blobs/${hash}`)
    expect(Buffer.from(await whole.arrayBuffer())).toEqual(bytes)
    expect(whole.headers.get('etag')).toBe(`"${hash}"`)
    const part = await node.fetch(`/api/v1/blobs/${hash}`, { headers: { range: 'bytes=4-8' } })
    expect([part.status, await part.text()]).toEqual([206, 'bytes'])
    expect(part.headers.get('content-range')).toBe(`bytes 4-8/${bytes.length}`)
    const past = await node.fetch(`/api/v1/blobs/${hash}`, { headers: { range: 'bytes=400-' } })
    expect([past.status, (await problemOf(past)).code]).toEqual([416, 'range_not_satisfiable'])
    const head = await node.fetch(`/api/v1/blobs/${hash}`, { method: 'HEAD' })
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes.length)])
    const had = await node.fetch(`/api/v1/blobs/${hash}`, { headers: { 'if-none-match': `"${hash}"` } })
    expect(had.status).toBe(304)
    expect((await (await node.fetch('/api/v1/blobs')).json()).items).toMatchObject([{ hash }])
    expect((await node.fetch(`/api/v1/blobs/${hash}`, { method: 'DELETE' })).status).toBe(204)
    expect((await node.fetch(`/api/v1/blobs/${hash}`)).status).toBe(404)
    expect((await node.fetch(`/api/v1/blobs/${hash}`, { method: 'DELETE' })).status).toBe(404)
  })

  test('other bytes than expected are refused', async () => {
    const wrong = await put(`?expect=${'0'.repeat(64)}`)
    expect((await problemOf(wrong)).code).toBe('blob_corrupt')
    expect((await node.fetch(`/api/v1/blobs/${hash}`)).status).toBe(404)
  })

  test('knowing a hash is not having it', async () => {
    await put()
    const { key } = await node.newKey({ tenant: 'curious', scopes: ['execute', 'read'] })
    const answers = [
      await node.fetch(`/api/v1/blobs/${hash}`, { key }),
      await node.fetch(`/api/v1/blobs/${hash}`, { key, method: 'DELETE' }),
      await node.fetch('/api/v1/execute', { key, json: { command: 'cat f', files: { '/f': { blob: hash } } } }),
    ]
    for (const answer of answers) expect(await problemOf(answer)).toMatchObject({ code: 'blob_not_found', status: 404 })
    expect((await (await node.fetch('/api/v1/blobs', { key })).json()).items).toEqual([])
    // Having put it too, it has it until it gives it up; the other still has it then.
    await put('', { key })
    expect((await node.fetch(`/api/v1/blobs/${hash}`, { key })).status).toBe(200)
    await node.fetch(`/api/v1/blobs/${hash}`, { key, method: 'DELETE' })
    expect((await node.fetch(`/api/v1/blobs/${hash}`)).status).toBe(200)
  })

  test('a key stores no more than its quota', async () => {
    const { key } = await node.newKey({ tenant: 'small', scopes: ['execute', 'read'], quota: { storageMb: 1 } })
    const piece = (fill: number) => Buffer.alloc(600 * 1024, fill)
    expect((await put('', { key, body: piece(1) })).status).toBe(200)
    expect(await problemOf(await put('', { key, body: piece(2) }))).toMatchObject({ code: 'quota_exceeded' })
    expect((await (await node.fetch('/api/v1/blobs', { key })).json()).items).toHaveLength(1)
  })

  test('are files of a command', async () => {
    await put()
    const json = { command: ['cat', '/in/file'], files: { '/in/file': { blob: hash } } }
    const response = await node.fetch('/api/v1/execute', { json })
    expect(await response.json()).toMatchObject({ exitCode: 0, stdout: bytes.toString() })
  })
})
