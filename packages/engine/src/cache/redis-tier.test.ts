import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { memoryStore } from '@bramble/blobs'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog, systemClock } from '../options.ts'
import { CONTEXT, openTestEngine, spec, type TestEngine } from '../testing.ts'
import { openRedisTier } from './redis-tier.ts'

const installed = spawnSync('redis-server', ['--version']).status === 0
if (!installed && process.env.REQUIRE_DRIVERS?.split(',').includes('redis'))
  throw new Error('REQUIRE_DRIVERS names redis, and redis-server is not installed')

const ends: (() => PromiseLike<void> | void)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address ? address.port : 0
}

interface RedisServer {
  readonly url: string
  readonly port: number
  readonly child: ChildProcess
  stop(): Promise<void>
}

/** Ready when it is given. */
const startRedis = async (port?: number): Promise<RedisServer> => {
  const at = port ?? (await freePort())
  const args = ['--port', String(at), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', '/tmp']
  const child = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  ends.push(stop)
  for await (const line of createInterface(child.stdout)) if (line.includes('Ready to accept connections')) break
  child.stdout.resume()
  return { url: `redis://127.0.0.1:${at}/`, port: at, child, stop }
}

const openNode = async (redisUrl: string, more: { limits?: object } = {}): Promise<TestEngine> => {
  // Each has a store of its own: only Redis is between them.
  const cacheLimits = { redisWaitMs: 10_000, storeWaitMs: 30_000, ...more.limits }
  const node = await openTestEngine({ engine: { blobs: memoryStore(), redisUrl, cacheLimits } })
  ends.push(() => node[Symbol.asyncDispose]())
  return node
}
const run = (node: TestEngine, command: string) =>
  node.engine.execute(spec({ command, mode: 'cached' }), CONTEXT).result
const sourcesOf = ({ notices }: TestEngine) =>
  notices.flatMap((notice) => (notice.type === 'cache' ? [notice.source] : []))

/** Asks with new commands until the node's Redis answers for what another node ran. */
const shares = async (from: TestEngine, to: TestEngine): Promise<void> => {
  let n = 0
  await expect
    .poll(
      async () => {
        const command = `echo ${process.hrtime.bigint()}-${n++}`
        await run(from, command)
        return (await run(to, command)).cached
      },
      { timeout: 30_000 },
    )
    .toBe(true)
}

describe.skipIf(!installed)(`Redis${installed ? '' : ': redis-server is not installed'}`, () => {
  test('shares results, and tells of what is forgotten', async () => {
    const { url } = await startRedis()
    const one = await openNode(url)
    const two = await openNode(url)
    await shares(one, two)
    expect(sourcesOf(two).at(-1)).toBe('shared')
    const command = 'echo to be forgotten'
    await run(one, command)
    await expect.poll(async () => (await run(two, command)).cached).toBe(true)
    await one.engine.cache.invalidate('default', { all: true })
    await expect.poll(() => two.engine.cache.stats('default').entries).toBe(0)
    expect((await run(two, command)).cached).toBe(false)
  })

  test('that dies is a miss, and is found again when it is back', async () => {
    const redis = await startRedis()
    const one = await openNode(redis.url)
    const two = await openNode(redis.url)
    await shares(one, two)
    await redis.stop()
    for (let n = 0; n < 5; n++) {
      await run(one, `echo dead ${n}`)
      expect(await run(two, `echo dead ${n}`)).toMatchObject({ cached: false, stdout: `dead ${n}\n` })
    }
    await one.engine.cache.invalidate('default', { all: true })
    await startRedis(redis.port)
    await shares(one, two)
  })

  test('that stands still is not waited for again and again', async () => {
    const redis = await startRedis()
    const one = await openNode(redis.url)
    const two = await openNode(redis.url, { limits: { redisWaitMs: 20 } })
    await shares(one, two)
    redis.child.kill('SIGSTOP')
    for (let n = 0; n < 5; n++) expect(await run(two, `echo still ${n}`)).toMatchObject({ cached: false })
    expect(two.notices).toContainEqual({ type: 'cacheTier', tier: 'redis' })
    redis.child.kill('SIGCONT')
  })

  test('whose values are no results is a miss; what runs replaces them', async () => {
    const redis = await startRedis()
    const one = await openNode(redis.url)
    const two = await openNode(redis.url)
    await shares(one, two)
    const { inputHash } = await run(one, 'echo true')
    const cli = (...args: string[]) =>
      spawnSync('redis-cli', ['-p', String(redis.port), ...args], { encoding: 'utf8' }).stdout.trim()
    const key = `bramble:results/default/${inputHash}`
    await expect.poll(() => cli('EXISTS', key)).toBe('1')
    const lie = cli('GET', key).replace('"true\\n"', '"lies\\n"')
    expect(lie).toContain('lies')
    cli('SET', key, lie)
    cli('PUBLISH', 'bramble:invalidations', '{"version":1}')
    cli('PUBLISH', 'bramble:invalidations', 'x'.repeat(100_000))
    expect(await run(two, 'echo true')).toMatchObject({ cached: false, stdout: 'true\n' })
    await expect.poll(() => cli('GET', key)).toContain('true\\n')
  })
})

describe('an address that is no Redis', () => {
  const listen = async (onConnection: (socket: Socket) => void): Promise<Server> => {
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => {})
      onConnection(socket)
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    ends.push(async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    })
    return server
  }
  const urlOf = (server: Server): string => {
    const address = server.address()
    return `redis://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}`
  }

  test.each<[string, (socket: Socket) => void]>([
    ['is silent', () => {}],
    ['speaks HTTP', (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['hangs up', (socket) => socket.destroy()],
  ])('%s: executions go on, and the engine closes', async (_what, onConnection) => {
    const server = await listen(onConnection)
    const node = await openNode(urlOf(server))
    expect(await run(node, 'echo on')).toMatchObject({ cached: false, stdout: 'on\n' })
    expect(await run(node, 'echo on')).toMatchObject({ cached: true })
    await node.engine.cache.invalidate('default', { all: true })
  })

  test('is refused where it is no URL of Redis', () => {
    const deps = {
      clock: systemClock,
      log: silentLog,
      notice: () => {},
      onInvalidation: () => {},
      onListening: () => {},
    }
    for (const url of ['http://localhost', 'localhost:6379', ''])
      expect(() => openRedisTier({ ...deps, url, waitMs: 5 })).toThrow(
        expect.objectContaining({ code: 'invalid_request' }),
      )
  })
})
