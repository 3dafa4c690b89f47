import { memoryStore } from '@bramble/blobs'
import { LIMITS } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { EngineEvent, ExecuteContext } from '../engine.ts'
import { sha256 } from '../outcome.ts'
import { CONTEXT, gather, openTestEngine, spec, type TestEngine } from '../testing.ts'

const cached = (command: string, more: object = {}) => spec({ command, mode: 'cached', ...more })
/** It is told to end by what it waits for in its directory. */
const SLOW = 'echo begun; sleep 3600'
const started =
  (node: TestEngine, count = 1) =>
  () =>
    node.notices.filter(({ type }) => type === 'started').length >= count
const startsOf = ({ notices }: TestEngine): number => notices.filter(({ type }) => type === 'started').length

describe('mode cached', () => {
  test('runs once, and answers without a sandbox, a place in the queue or a quota', async () => {
    await using node = await openTestEngine({ limits: { maxRunning: 1, maxQueued: 0 } })
    const { engine } = node
    const first = await engine.execute(cached('echo out'), CONTEXT).result
    const busy = engine.execute(spec(SLOW), CONTEXT)
    await node.until(started(node, 2))
    expect(() => engine.execute(spec('true'), CONTEXT)).toThrow(expect.objectContaining({ code: 'queue_full' }))
    const hit = engine.execute(cached('echo out'), CONTEXT)
    const result = await hit.result
    expect(JSON.parse(hit.json?.() ?? '')).toEqual(result)
    expect(result).toMatchObject({ cached: true, stdout: 'out\n', resultHash: first.resultHash, id: hit.id })
    expect(result.usage).toEqual({ cpuMs: 0, peakMemoryBytes: 0, diskBytes: 0, egressBytes: 0 })
    // What memory has not waits like any other, and is refused like any other.
    await expect(engine.execute(cached('echo other'), CONTEXT).result).rejects.toMatchObject({ code: 'queue_full' })
    busy.cancel()
    await busy.result
    expect(startsOf(node)).toBe(2)
  })

  test('is there after a restart, and for another engine of the same store', async () => {
    const blobs = memoryStore()
    await using one = await openTestEngine({ engine: { blobs } })
    await one.engine.execute(cached('echo kept'), CONTEXT).result
    await using again = await one.reopen()
    expect(await again.engine.execute(cached('echo kept'), CONTEXT).result).toMatchObject({ cached: true })
    await using two = await openTestEngine({ engine: { blobs } })
    expect(await two.engine.execute(cached('echo kept'), CONTEXT).result).toMatchObject({ cached: true })
    expect(two.notices).toContainEqual({ type: 'cache', source: 'shared' })
    expect(startsOf(two)).toBe(0)
  })

  test('on the local disk too, where no store is given', async () => {
    await using one = await openTestEngine()
    await one.engine.execute(cached('echo kept; yes x | head -c 200000'), CONTEXT).result
    await using again = await one.reopen()
    const { result } = again.engine.execute(cached('echo kept; yes x | head -c 200000'), CONTEXT)
    expect(await result).toMatchObject({ cached: true, stdout: expect.stringMatching(/^kept\nx\n/) })
  })

  test('who leaves is cancelled; the run goes on for who waits, and is told as it comes', async () => {
    await using node = await openTestEngine()
    const { engine } = node
    const gone = new AbortController()
    const first = engine.execute(cached(SLOW), { ...CONTEXT, signal: gone.signal })
    await node.until(started(node))
    const second = engine.execute(cached(SLOW), { ...CONTEXT, stream: true })
    gone.abort()
    expect(await first.result).toMatchObject({ status: 'cancelled', id: first.id })
    expect(await engine.executions.get(first.id, 'default')).toMatchObject({ status: 'cancelled' })
    const seen: EngineEvent[] = []
    for await (const event of second) {
      seen.push(event)
      if (event.type === 'stdout') break
    }
    expect(seen.map(({ type }) => type)).toEqual(['queued', 'started', 'stdout'])
    expect(seen[1]).toMatchObject({ id: second.id })
    expect(await engine.executions.get(second.id, 'default')).toMatchObject({ status: 'running', runtime: 'fake' })
    expect(node.host.sandboxes.size).toBe(1)
    // The last who waits ends it.
    second.cancel()
    expect(await second.result).toMatchObject({ status: 'cancelled' })
    await node.until(() => node.host.sandboxes.size === 0)
    expect(startsOf(node)).toBe(1)
  })

  test('who waits for an equal one has its result and its events, under an id of its own', async () => {
    await using node = await openTestEngine()
    const { engine } = node
    const command = 'echo a; echo b >&2; exit 3'
    const all = [1, 2, 3].map(() => engine.execute(cached(command), { ...CONTEXT, stream: true }))
    const heard = await Promise.all(all.map((execution) => gather(execution)))
    for (const [index, { stdout, stderr, types, others }] of heard.entries()) {
      expect([stdout, stderr, types]).toEqual(['a\n', 'b\n', ['queued', 'started', 'exit', 'result']])
      for (const event of others) if ('id' in event) expect(event.id).toBe(all[index]?.id)
    }
    const results = await Promise.all(all.map(({ result }) => result))
    expect(results.map((result) => result.cached).sort()).toEqual([false, true, true])
    expect(new Set(results.map(({ id }) => id)).size).toBe(3)
    expect(startsOf(node)).toBe(1)
    // A failure was shared, and not kept.
    await engine.execute(cached(command), CONTEXT).result
    expect(startsOf(node)).toBe(2)
    await engine.execute(cached(command, { cacheFailures: true }), CONTEXT).result
    expect(await engine.execute(cached(command), CONTEXT).result).toMatchObject({ cached: true, exitCode: 3 })
  })

  test('is charged for what ran, to who began it, once', async () => {
    await using node = await openTestEngine()
    const { engine } = node
    const by = (keyId: string): ExecuteContext => ({ ...CONTEXT, keyId })
    const all = ['key_a', 'key_b'].map((key) => engine.execute(cached('echo paid; sleep 0.01'), by(key)).result)
    await Promise.all(all)
    await engine.execute(cached('echo paid; sleep 0.01'), by('key_b')).result
    const rows = await engine.usage({ since: new Date(Date.now() - 3_600_000), until: new Date() })
    const usageOf = (key: string) => rows.find(({ keyId }) => keyId === key)
    expect(usageOf('key_a')?.memoryGbSeconds).toBeGreaterThan(0)
    expect(usageOf('key_b')).toMatchObject({ executions: 2, memoryGbSeconds: 0, cpuSeconds: 0 })
  })

  test('the record of a large hit is whole while the cache has it', async () => {
    await using node = await openTestEngine()
    const { engine } = node
    const large = cached('yes line | head -c 100000')
    await engine.execute(large, CONTEXT).result
    const { id, result } = engine.execute(large, CONTEXT)
    const answered = await result
    // Listing writes what was not written.
    await engine.executions.list({ tenant: 'default', limit: 1 })
    expect((await engine.executions.get(id, 'default')).result).toEqual(answered)
    expect((await gather(engine.executions.logs(id, 'default'))).stdout).toHaveLength(100_000)
    await engine.cache.invalidate('default', { all: true })
    const record = await engine.executions.get(id, 'default')
    expect(record).toMatchObject({ status: 'succeeded', exitCode: 0, message: expect.stringContaining('no longer') })
    expect(record.result).toBeUndefined()
  })

  test('hits do not push what ran out of the history', async () => {
    await using node = await openTestEngine({ limits: { maxHistory: 10, historyFlushMs: 1 } })
    const { engine } = node
    const ran: string[] = []
    for (let n = 0; n < 4; n++) ran.push((await engine.execute(spec(`echo ${n}`), CONTEXT).result).id)
    for (let n = 0; n < 50; n++) {
      await engine.execute(cached('echo often'), CONTEXT).result
      if (n % 10 === 0) await engine.executions.list({ tenant: 'default', limit: 1 })
    }
    const { items } = await engine.executions.list({ tenant: 'default', limit: 100 })
    expect(items).toHaveLength(10)
    expect(items.slice(6).map(({ id }) => id)).toEqual(ran.reverse())
  })

  test.each([
    [{ secrets: ['token'] }, 'secrets'],
    [{ volumes: [{ name: 'data', path: '/data' }] }, 'volumes'],
    [{ volumes: [{ name: 'data', path: '/data', readOnly: true }] }, 'cacheTtlMs'],
    [{ network: 'egress' }, 'cacheTtlMs'],
    [{ parent: 'box' }, 'checkpoint'],
    [{ checkpoint: 'named' }, 'checkpoint'],
  ])('%j depends on more than what it is known by', async (more, words) => {
    await using node = await openTestEngine()
    const execute = () => node.engine.execute(cached('true', more), CONTEXT)
    expect(execute).toThrow(
      expect.objectContaining({ code: 'invalid_request', detail: expect.stringContaining(words) }),
    )
  })

  test('an engine that closes lets none wait for ever', async () => {
    await using node = await openTestEngine()
    const waiting = [1, 2].map(() => node.engine.execute(cached(SLOW), CONTEXT).result)
    await node.until(started(node))
    await node.engine.close({ graceMs: 0 })
    for (const result of waiting) expect(await result).toMatchObject({ status: 'cancelled' })
    expect(node.host.sandboxes.size).toBe(0)
    expect(() => node.engine.execute(cached(SLOW), CONTEXT)).toThrow(expect.objectContaining({ code: 'shutting_down' }))
  })
})

describe('blobs of executions', () => {
  const bytes = Buffer.from('a file from a blob')
  const hash = sha256(bytes)
  const ttlMs = 60_000

  test('are files of commands of the tenant that has them', async () => {
    await using node = await openTestEngine()
    const { engine } = node
    await engine.tenantBlobs.put('default', bytes, { ttlMs })
    const wanted = spec({ command: 'cat in', files: { in: { blob: hash, mode: 0o600 } } })
    expect(await engine.execute(wanted, CONTEXT).result).toMatchObject({ stdout: bytes.toString() })
    const other = engine.execute(wanted, { ...CONTEXT, tenant: 'other' })
    await expect(other.result).rejects.toMatchObject({ code: 'blob_not_found' })
    expect(startsOf(node)).toBe(1)
    expect(engine.status().running).toBe(0)
  })

  test('hold outputs that are too large for the answer, in mode cached or where asked for', async () => {
    const size = LIMITS.maxOutputFilesBytes.value + 1
    const command = `yes 0123456 | head -c ${size} > big; echo small > small`
    const outputs = ['big', 'small', 'none']
    await using node = await openTestEngine()
    const { engine } = node
    const plain = await engine.execute(spec({ command, outputs }), CONTEXT).result
    expect(plain.outputs.big).toEqual({ error: 'too_large', sizeBytes: size })
    const result = await engine.execute(cached(command, { outputs }), CONTEXT).result
    const { big, small, none } = result.outputs
    expect(small).toMatchObject({ content: 'small\n' })
    expect(none).toEqual({ error: 'not_found' })
    if (!big || !('blob' in big)) throw new Error(`no blob: ${JSON.stringify(big)}`)
    expect(big).toEqual({ blob: big.sha256, sizeBytes: size, sha256: big.sha256 })
    let read = 0
    for await (const piece of await engine.tenantBlobs.get('default', big.blob)) read += piece.length
    expect(read).toBe(size)
    await expect(engine.tenantBlobs.get('other', big.blob)).rejects.toMatchObject({ code: 'blob_not_found' })
    expect(await engine.execute(cached(command, { outputs }), CONTEXT).result).toMatchObject({
      cached: true,
      outputs: { big },
    })
    expect(await Array.fromAsync(engine.tenantBlobs.roots())).toEqual([big.blob])
    // Results are written behind.
    await expect.poll(() => Array.fromAsync(engine.cache.roots())).toContain(big.blob)

    const asked = await engine.execute(spec({ command, outputs, outputBlobs: true }), CONTEXT).result
    expect(asked.outputs.big).toEqual(big)
    expect([asked.inputHash, asked.resultHash]).toEqual([result.inputHash, result.resultHash])
    expect(plain.inputHash).not.toBe(asked.inputHash)
  })
})
