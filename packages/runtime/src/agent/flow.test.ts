import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Agent } from './agent.ts'
import { finish, procNumber, run, type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

describe('flow control with the real agent', () => {
  let spawned: SpawnedAgent
  let agent: Agent
  beforeAll(async () => {
    spawned = await spawnAgent()
    agent = await spawned.connect()
  })
  afterAll(async () => {
    await agent.close()
    await spawned[Symbol.asyncDispose]()
  })

  /** Neighbours run until `count` says the same twice: what could still move has had its turn. */
  const settled = async (count: () => Promise<number>): Promise<number> => {
    let last = -1
    for (let same = 0; same < 3; ) {
      for (let i = 0; i < 5; i++) expect((await shell(agent, 'echo near')).stdout).toBe('near\n')
      const now = await count()
      same = now === last ? same + 1 : 0
      last = now
    }
    return last
  }

  it('carries large standard input whole, at the pace of the command', async () => {
    const input = randomBytes(8 * 1024 * 1024)
    const command = agent.exec({ argv: ['sha256sum'], stdin: 'pipe' })
    const written = command.write(input).then(() => command.end())
    expect((await finish(command)).stdout.slice(0, 64)).toBe(sha256(input))
    await written
  })

  it('carries it through a command that writes as much as it reads', async () => {
    const input = randomBytes(4 * 1024 * 1024)
    const command = agent.exec({ argv: ['cat'], stdin: 'pipe' })
    for (let at = 0; at < input.length; at += 100_000) void command.write(input.subarray(at, at + 100_000))
    command.end()
    const hash = createHash('sha256')
    for await (const event of command) if (event.type === 'stdout') hash.update(event.data)
    expect(hash.digest('hex')).toBe(sha256(input))
  })

  it('swallows input that the command does not want', async () => {
    const closed = agent.exec({ argv: ['sh', '-c', 'exec 0<&-; echo closed; sleep 0.2; echo done'], stdin: 'pipe' })
    const written = closed.write(Buffer.alloc(1024 * 1024))
    expect((await finish(closed)).stdout).toBe('closed\ndone\n')
    await written
    const brief = agent.exec({ argv: ['head', '-c', '3'], stdin: 'pipe' })
    await brief.write(Buffer.alloc(1024 * 1024, 'x'))
    expect((await finish(brief)).stdout).toBe('xxx')
    await brief.write(Buffer.from('after the end'))
    brief.end()
  })

  it('sees the end of input at once where nothing was written', async () => {
    const command = agent.exec({ argv: ['cat'], stdin: 'pipe' })
    command.end()
    expect((await finish(command)).exit).toMatchObject({ code: 0 })
  })

  it('stalls the command whose output nobody takes, not its neighbours, and nothing grows', async () => {
    const size = 64 * 1024 * 1024
    const idleKb = await procNumber(spawned.pid, 'status', 'VmRSS')
    const stalled = Array.from({ length: 4 }, () =>
      agent.exec({ argv: ['head', '-c', String(size), '/dev/zero'] })[Symbol.asyncIterator](),
    )
    for (const iterator of stalled) {
      const started = await iterator.next()
      const pid = started.value?.type === 'started' ? started.value.pid : 0
      const written = await settled(() => procNumber(pid, 'io', 'wchar'))
      expect(written).toBeGreaterThan(0)
      expect(written).toBeLessThan(4 * 1024 * 1024)
      expect((await procNumber(spawned.pid, 'status', 'VmRSS')) - idleKb).toBeLessThan(1024)
    }
    for (const iterator of stalled) {
      let bytes = 0
      for (let next = await iterator.next(); !next.done; next = await iterator.next())
        if (next.value.type === 'stdout') bytes += next.value.data.length
      expect(bytes).toBe(size)
    }
    await run(agent, ['true'])
    expect((await procNumber(spawned.pid, 'status', 'VmRSS')) - idleKb).toBeLessThan(256)
  })

  it('stalls the writer of input that the command does not read, not its neighbours', async () => {
    const command = agent.exec({ argv: ['sleep', '1000'], stdin: 'pipe' })
    let accepted = 0
    let running = true
    const feed = async (): Promise<void> => {
      while (running) {
        await command.write(Buffer.alloc(16 * 1024))
        accepted += 16 * 1024
      }
    }
    const fed = feed()
    expect(await settled(async () => accepted)).toBeLessThanOrEqual(256 * 1024)
    await agent.ping()
    command.kill(9)
    expect((await finish(command)).exit).toMatchObject({ kind: 'signalled', signal: 9 })
    running = false
    await fed
  })

  it('gives every byte in order when the streams alternate in small pieces', async () => {
    const { stdout, stderr } = await shell(
      agent,
      'i=0; while [ $i -lt 3000 ]; do echo $i; echo $i >&2; i=$((i+1)); done',
    )
    const expected = Array.from({ length: 3000 }, (_, i) => `${i}\n`).join('')
    expect(stdout).toBe(expected)
    expect(stderr).toBe(expected)
  })

  it('throws output away in the sandbox once it is discarded, and the command runs on', async () => {
    const command = agent.exec({ argv: ['sh', '-c', 'head -c 300000000 /dev/zero; echo end >&2'] })
    let stdout = 0
    let stderr = ''
    for await (const event of command) {
      if (event.type === 'started') command.discard('stdout')
      if (event.type === 'stdout') stdout += event.data.length
      if (event.type === 'stderr') stderr += event.data.toString()
    }
    expect(stdout).toBeLessThan(2 * 1024 * 1024)
    expect(stderr).toBe('end\n')
  })

  it('discards for a command that already waits for its reader', async () => {
    const command = agent.exec({ argv: ['sh', '-c', 'head -c 30000000 /dev/zero; echo end >&2'] })
    const iterator = command[Symbol.asyncIterator]()
    const started = await iterator.next()
    const pid = started.value?.type === 'started' ? started.value.pid : 0
    await settled(() => procNumber(pid, 'io', 'wchar'))
    command.discard('stdout')
    let stderr = ''
    for (let next = await iterator.next(); !next.done; next = await iterator.next())
      if (next.value.type === 'stderr') stderr += next.value.data.toString()
    expect(stderr).toBe('end\n')
  })
})
