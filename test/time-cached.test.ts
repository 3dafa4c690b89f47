import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import type { CacheStats, ExecutionResult } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { until } from './leftovers.ts'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { call, untilUploaded } from './time-node.ts'

/** Results that nodes share: through S3 alone, and with a Redis. */

interface Redis extends AsyncDisposable {
  readonly url: string
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

const openRedis = async (): Promise<Redis | { skip: string }> => {
  if (spawnSync('redis-server', ['--version']).status !== 0) return { skip: 'redis-server is not installed' }
  const directory = mkdtempSync(join(tmpdir(), 'bramble-redis-'))
  const port = await freePort()
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', directory]
  const child: ChildProcess = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const exited = once(child, 'exit')
  for await (const chunk of child.stdout ?? []) if (String(chunk).includes('Ready to accept')) break
  return {
    url: `redis://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await exited
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

describe.each(['S3 alone', 'S3 and Redis'])('two nodes with %s', (kind) => {
  let skip: string | undefined
  let s3: S3Server
  let redis: Redis | undefined
  let a: LiveNode
  let b: LiveNode
  const held = new AsyncDisposableStack()

  const open = async (): Promise<string | undefined> => {
    const server = await openS3Server()
    if ('skip' in server) return server.skip
    s3 = held.use(server)
    if (kind.includes('Redis')) {
      const opened = await openRedis()
      if ('skip' in opened) return opened.skip
      redis = held.use(opened)
    }
    const env = {
      BRAMBLE_OBJECT_STORE_URL: s3.url(await s3.newBucket()),
      ...(redis && { BRAMBLE_REDIS_URL: redis.url }),
      BRAMBLE_LOG_LEVEL: 'error',
    }
    for (const name of ['a', 'b']) {
      const opened = await openLiveNode({ env })
      if ('skip' in opened) return opened.skip
      held.use(opened)
      if (name === 'a') a = opened
      else b = opened
    }
    return undefined
  }
  beforeAll(async () => {
    skip = await open()
  })
  afterAll(() => held.disposeAsync())
  beforeEach((context) => {
    if (skip !== undefined) context.skip(skip)
  })

  type Spec = Record<string, unknown> & { command: string }
  const run = (node: LiveNode, spec: Spec): Promise<ExecutionResult> =>
    call(node, 'POST', 'execute', { mode: 'cached', ...spec })
  let count = 0
  /** Each is another input, and its output is another with each run. */
  const anew = (): string => `cat /proc/sys/kernel/random/uuid # ${count++}`

  /**
   * A result of one that is a hit on the other. It is written behind its answer, and a store that is slow is not waited for: so it
   * is tried with new ones until one was there in time.
   */
  const shared = async (more: object = {}): Promise<{ spec: Spec; first: ExecutionResult; hit: ExecutionResult }> => {
    let found: { spec: Spec; first: ExecutionResult; hit: ExecutionResult } | undefined
    await until('a result is shared', async () => {
      const spec = { command: anew(), ...more }
      const first = await run(a, spec)
      expect(first.cached).toBe(false)
      await untilUploaded(a)
      const hit = await run(b, spec)
      found = { spec, first, hit }
      return hit.cached
    })
    if (!found) throw new Error('nothing was shared')
    return found
  }

  test('a result of one is a hit on the other, with all that belongs to it', async () => {
    const { first, hit, spec } = await shared({ outputs: ['/etc/hostname'] })
    expect(hit).toMatchObject({ stdout: first.stdout, resultHash: first.resultHash, outputs: first.outputs })
    expect(hit.id).not.toBe(first.id)
    expect((await run(b, spec)).stdout).toBe(first.stdout)
    expect((await call<CacheStats>(b, 'GET', 'cache')).sharedHits).toBeGreaterThan(0)
  })

  test('an output that is a blob is had on the other node, too', async () => {
    const command = (name: number): string => `head -c 20000000 /dev/urandom > /root/out; md5sum < /root/out # ${name}`
    let blob = ''
    let said = ''
    await until('a result is shared', async () => {
      const spec = { command: command(count++), outputs: ['/root/out'] }
      const first = await run(a, spec)
      await untilUploaded(a)
      const hit = await run(b, spec)
      expect(hit.cached ? hit.outputs : {}).toEqual(hit.cached ? first.outputs : {})
      const output = first.outputs['/root/out']
      blob = output !== undefined && 'blob' in output ? output.blob : ''
      said = first.stdout
      return hit.cached
    })
    expect(blob).not.toBe('')
    const check = { command: 'md5sum < /in', files: { '/in': { blob } }, mode: 'ephemeral' }
    expect((await run(b, check)).stdout).toBe(said)
  })

  test('a result is no older than asked for', async () => {
    const { spec, first } = await shared()
    const fresh = await run(b, { ...spec, cacheTtlMs: 1 })
    expect([fresh.cached, fresh.stdout === first.stdout]).toEqual([false, false])
    const none = await run(a, { command: anew(), cacheTtlMs: 0 })
    expect(none.cached).toBe(false)
    expect((await run(a, { ...spec, cacheTtlMs: 3_600_000 })).stdout).toBe(first.stdout)
  })

  test('what is forgotten on one is forgotten on the other; the rest stays', async () => {
    const gone = await shared({ labels: { job: 'gone' } })
    const kept = await shared({ labels: { job: 'kept' } })
    await call(a, 'DELETE', 'cache', { label: 'job=gone' })
    expect((await run(a, gone.spec)).stdout).not.toBe(gone.first.stdout)
    await until('the other node has forgotten it', async () => (await run(b, gone.spec)).stdout !== gone.first.stdout)
    for (const node of [a, b]) expect((await run(node, kept.spec)).stdout).toBe(kept.first.stdout)
    await call(b, 'DELETE', 'cache', { all: true })
    await until('all is forgotten', async () => (await run(a, kept.spec)).stdout !== kept.first.stdout)
  })

  /** A client that hears what is said as it comes; resolves when it has begun. */
  const listen = async (spec: Spec, signal?: AbortSignal) => {
    const { body } = await fetch(`${a.url}/api/v1/execute`, {
      method: 'POST',
      headers: {
        ...{ authorization: `Bearer ${a.key}`, 'content-type': 'application/json' },
        accept: 'text/event-stream',
      },
      body: JSON.stringify({ mode: 'cached', ...spec }),
      ...(signal && { signal }),
    })
    const begun = Promise.withResolvers<void>()
    const hear = async (): Promise<string> => {
      let heard = ''
      for await (const piece of body ?? []) {
        heard += Buffer.from(piece).toString()
        if (heard.includes('begun')) begun.resolve()
      }
      return heard
    }
    const heard = hear().catch((error: Error) => error.name)
    await begun.promise
    return { heard }
  }

  test('equal requests of many clients run once, whoever leaves', async () => {
    const spec = { command: `echo begun; sleep 2; ${anew()}` }
    const leaving = new AbortController()
    // They hear of one run, while it goes on.
    const [first, ...others] = await Promise.all([
      listen(spec, leaving.signal),
      ...Array.from({ length: 8 }, () => listen(spec)),
    ])
    leaving.abort()
    expect(await first.heard).toBe('AbortError')
    const all = await Promise.all(others.map(({ heard }) => heard))
    const { stdout, cached } = await run(a, spec)
    expect(cached).toBe(true)
    const [, said = ''] = stdout.split('\n')
    expect(said).toMatch(/^[0-9a-f-]{36}$/)
    for (const heard of all) expect(heard).toContain(said)
  })

  test('a node that was killed has them again', async () => {
    const { spec, first } = await shared()
    await a.kill()
    await a.again()
    expect(await run(a, spec)).toMatchObject({ cached: true, stdout: first.stdout })
  })
})
