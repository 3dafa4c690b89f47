import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newId } from '@bramble/protocol'
import { describe, expect, onTestFinished, test } from 'vitest'
import { CONTEXT, gather, openTestEngine, spec } from './testing.ts'

describe('records', () => {
  test('are found while it runs and after, written or not, by their own tenant', async () => {
    await using node = await openTestEngine()
    const { executions } = node.engine
    const execution = node.engine.execute(spec({ command: ['echo', 'a'], labels: { a: '1' } }), CONTEXT)
    expect(await executions.get(execution.id, 'default')).toMatchObject({ status: 'queued', exitCode: null })
    const result = await execution.result
    expect(await executions.get(execution.id, 'default')).toMatchObject({ status: 'succeeded', result })
    await executions.list({ tenant: 'default', limit: 1 })
    expect(await executions.get(execution.id, 'default')).toEqual({
      id: execution.id,
      status: 'succeeded',
      command: ['echo', 'a'],
      image: 'base',
      mode: 'ephemeral',
      runtime: 'fake',
      labels: { a: '1' },
      exitCode: 0,
      createdAt: expect.any(String),
      finishedAt: result.finishedAt,
      result,
    })
    await expect(executions.get(execution.id, 'other')).rejects.toMatchObject({ code: 'not_found' })
    await expect(executions.get(newId('execution'), 'default')).rejects.toMatchObject({ code: 'not_found' })
  })

  test('are listed newest first, in pages, without their results', async () => {
    await using node = await openTestEngine()
    const { executions } = node.engine
    const ids: string[] = []
    for (let i = 0; i < 5; i++) {
      const execution = node.engine.execute(spec('true'), CONTEXT)
      await execution.result
      ids.push(execution.id)
    }
    ids.sort().reverse()
    const seen: string[] = []
    for (let cursor: string | null | undefined; cursor !== null; ) {
      const page = await executions.list({ tenant: 'default', limit: 2, ...(cursor && { cursor }) })
      expect(page.items.length).toBeLessThanOrEqual(2)
      expect(page.items.every((item) => item.result === undefined)).toBe(true)
      seen.push(...page.items.map(({ id }) => id))
      cursor = page.nextCursor
    }
    expect(seen).toEqual(ids)
    expect(await executions.list({ tenant: 'other', limit: 10 })).toEqual({ items: [], nextCursor: null })
    await expect(executions.list({ tenant: 'default', limit: 1, cursor: "x' or 1" })).rejects.toMatchObject({
      code: 'invalid_request',
    })
  })

  test('are filtered by status, and by label with a value or any', async () => {
    await using node = await openTestEngine()
    const { executions } = node.engine
    const run = async (command: string, labels: Record<string, string>) => {
      const execution = node.engine.execute(spec({ command, labels }), CONTEXT)
      await execution.result
      return execution.id
    }
    const a = await run('true', { app: 'web', 'a=b': '1' })
    const b = await run('false', { app: 'api' })
    await run('true', {})
    const list = async (query: { status?: 'failed' | 'succeeded'; label?: string }) =>
      (await executions.list({ tenant: 'default', limit: 10, ...query })).items.map(({ id }) => id).sort()
    expect(await list({ status: 'failed' })).toEqual([b])
    expect(await list({ label: 'app' })).toEqual([a, b].sort())
    expect(await list({ label: 'app=web' })).toEqual([a])
    expect(await list({ label: 'app=web', status: 'failed' })).toEqual([])
    expect(await list({ label: 'ap' })).toEqual([])
  })

  test('say what waits and what runs', async () => {
    await using node = await openTestEngine({ limits: { maxRunning: 1 } })
    const first = node.engine.execute(spec('sleep 1000'), CONTEXT)
    const second = node.engine.execute(spec('true'), CONTEXT)
    const list = async () => {
      const { items } = await node.engine.executions.list({ tenant: 'default', limit: 10 })
      return new Map(items.map(({ id, status }) => [id, status]))
    }
    await list()
    await node.until(() => node.notices.some(({ type }) => type === 'started'))
    expect(await list()).toEqual(
      new Map([
        [first.id, 'running'],
        [second.id, 'queued'],
      ]),
    )
  })

  test('are there when the engine is opened again', async () => {
    await using first = await openTestEngine()
    const execution = first.engine.execute(spec('echo a'), CONTEXT)
    const result = await execution.result
    await using second = await first.reopen()
    expect(await second.engine.executions.get(execution.id, 'default')).toMatchObject({ result })
  })

  test('are bounded in number: the oldest go', async () => {
    await using node = await openTestEngine({ limits: { maxHistory: 3 } })
    const ids: string[] = []
    for (let i = 0; i < 6; i++) {
      const execution = node.engine.execute(spec({ command: 'true', labels: { n: String(i) } }), CONTEXT)
      await execution.result
      ids.push(execution.id)
      await node.engine.executions.list({ tenant: 'default', limit: 1 })
    }
    const { items } = await node.engine.executions.list({ tenant: 'default', limit: 10 })
    expect(items.map(({ labels }) => labels.n)).toEqual(['5', '4', '3'])
  })

  test('are bounded in bytes', async () => {
    await using node = await openTestEngine({ limits: { maxHistoryBytes: 50_000 } })
    for (let i = 0; i < 6; i++) {
      await node.engine.execute(spec('head -c 20000 /dev/zero | tr "\\0" x || seq 5000'), CONTEXT).result
      await node.engine.executions.list({ tenant: 'default', limit: 1 })
    }
    const { items } = await node.engine.executions.list({ tenant: 'default', limit: 10 })
    expect(items.length).toBeGreaterThan(0)
    expect(items.length).toBeLessThan(4)
  })

  test('say why there is no result', async () => {
    await using node = await openTestEngine({ runtime: { createFails: () => new Error('no more room') } })
    const execution = node.engine.execute(spec('true'), CONTEXT)
    await execution.result.catch(() => {})
    await node.engine.executions.list({ tenant: 'default', limit: 1 })
    const record = await node.engine.executions.get(execution.id, 'default')
    expect(record).toMatchObject({ status: 'error', message: 'no more room' })
    expect(record.result).toBeUndefined()
    expect((await gather(node.engine.executions.logs(execution.id, 'default'))).types).toEqual(['queued', 'error'])
  })
})

describe('logs', () => {
  test('are the past, then what comes, for any number of watchers; a slow one holds nobody up', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec('echo first; head -c 200000 /dev/zero; echo last >&2'), CONTEXT)
    const slow = node.engine.executions.logs(execution.id, 'default')[Symbol.asyncIterator]()
    await slow.next()
    const fast = await gather(node.engine.executions.logs(execution.id, 'default'))
    expect(fast.types).toEqual(['queued', 'started', 'exit', 'result'])
    expect([fast.stdout.length, fast.stderr]).toEqual([200_006, 'last\n'])
    const rest = await gather({ [Symbol.asyncIterator]: () => slow })
    expect(rest).toMatchObject({ stdout: fast.stdout, stderr: 'last\n', types: ['started', 'exit', 'result'] })
  })

  test('of one that has ended are whole', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec("printf '\\377out'; echo err >&2; exit 4"), CONTEXT)
    await execution.result
    const logs = await gather(node.engine.executions.logs(execution.id, 'default'))
    expect(logs).toMatchObject({ stdout: '\xffout', stderr: 'err\n', types: ['queued', 'started', 'exit', 'result'] })
    expect(logs.others[2]).toEqual({ type: 'exit', code: 4 })
  })

  test('end when their signal aborts; the execution goes on', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec('echo a; sleep 1000'), CONTEXT)
    const controller = new AbortController()
    const reading = async () => {
      const logs = node.engine.executions.logs(execution.id, 'default', { signal: controller.signal })
      for await (const event of logs) if (event.type === 'stdout') controller.abort(new Error('enough'))
    }
    await expect(reading()).rejects.toThrow('enough')
    expect(await node.engine.executions.get(execution.id, 'default')).toMatchObject({ status: 'running' })
  })

  test('are not for another tenant', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec('sleep 1000'), CONTEXT)
    await expect(gather(node.engine.executions.logs(execution.id, 'other'))).rejects.toMatchObject({
      code: 'not_found',
    })
  })
})

describe('usage', () => {
  test('is summed by tenant and key, and is there after opening again', async () => {
    await using first = await openTestEngine()
    const run = (tenant: string, keyId: string) => first.engine.execute(spec('true'), { tenant, keyId }).result
    for (const [tenant, key] of [
      ['a', 'k1'],
      ['a', 'k1'],
      ['a', 'k2'],
      ['b', 'k3'],
    ] as const)
      await run(tenant, key)
    await using second = await first.reopen()
    await second.engine.execute(spec('true'), { tenant: 'a', keyId: 'k1' }).result
    const since = new Date(Date.now() - 60_000)
    const until = new Date(Date.now() + 60_000)
    const rows = await second.engine.usage({ since, until })
    expect(rows.map(({ tenant, keyId, executions }) => [tenant, keyId, executions])).toEqual([
      ['a', 'k1', 3],
      ['a', 'k2', 1],
      ['b', 'k3', 1],
    ])
    expect(rows.every(({ memoryGbSeconds }) => memoryGbSeconds > 0)).toBe(true)
    expect(await second.engine.usage({ tenant: 'b', since, until })).toHaveLength(1)
    expect(await second.engine.usage({ since: new Date(0), until: new Date(1000) })).toEqual([])
  })
})

const CRASHING = `
  const { openTestEngine, spec, CONTEXT } = await import(process.argv[1])
  const node = await openTestEngine({ directory: process.argv[2], limits: { historyFlushMs: 1 } })
  const done = node.engine.execute(spec('echo kept'), CONTEXT)
  await done.result
  const hung = node.engine.execute(spec('sleep 1000'), CONTEXT)
  await node.engine.executions.list({ tenant: 'default', limit: 1 })
  console.log(JSON.stringify([done.id, hung.id]))
  for (;;) await node.engine.execute(spec('true'), CONTEXT).result
`

test('after kill -9 the store opens, what was running is an error, what had ended is there', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-engine-crash-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  const testing = new URL('./testing.ts', import.meta.url).href
  const child = spawn(process.execPath, ['--input-type=module', '-e', CRASHING, testing, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  child.kill('SIGKILL')
  await once(child, 'exit')
  const [done, hung] = JSON.parse(line.toString())
  await using node = await openTestEngine({ directory })
  const { executions } = node.engine
  expect(await executions.get(done, 'default')).toMatchObject({ status: 'succeeded', result: { stdout: 'kept\n' } })
  expect(await executions.get(hung, 'default')).toMatchObject({ status: 'error', message: 'the node stopped' })
  expect((await executions.list({ tenant: 'default', limit: 10, status: 'running' })).items).toEqual([])
  expect(await node.engine.execute(spec('true'), CONTEXT).result).toMatchObject({ status: 'succeeded' })
})
