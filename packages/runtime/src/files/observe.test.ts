import { createServer } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent, AgentProcess, ProcessEvent } from '../agent/agent.ts'
import { type SpawnedAgent, spawnAgent } from '../agent/testing/spawn-agent.ts'
import { listPorts, observeSandbox, type SandboxChange } from './observe.ts'

const isRoot = process.getuid?.() === 0
const LISTEN = `
const server = require('node:net').createServer().listen(+process.argv[1], process.argv[2], () => process.stdout.write(server.address().port + '\\n'))
`

type Match = (change: SandboxChange) => boolean
const start =
  (text: string): Match =>
  (change) =>
    change.type === 'process' && change.event === 'start' && change.command.includes(text)

const portIs =
  (port: number): Match =>
  (change) =>
    change.type === 'port' && change.port === port

const observe = (agent: Agent, agentPath: string) => {
  const changes = observeSandbox(agent, { agentPath, intervalMs: 10 })
  const seen: SandboxChange[] = []
  return {
    seen,
    /** Takes changes until one matches. */
    until: async (match: Match): Promise<SandboxChange> => {
      for (;;) {
        const { done, value } = await changes.next()
        if (done) throw new Error('it ended')
        seen.push(value)
        if (match(value)) return value
      }
    },
    [Symbol.asyncDispose]: async () => void (await changes.return()),
  }
}

/** The first event of a command that says what is asked; the command goes on. */
const firstOf = async <T>(command: AgentProcess, ask: (event: ProcessEvent) => T | undefined): Promise<T> => {
  const events = command[Symbol.asyncIterator]()
  for (;;) {
    const { done, value } = await events.next()
    if (done) throw new Error('it ended')
    const answer = ask(value)
    if (answer !== undefined) return answer
  }
}

/** A server in the sandbox on a port of its own, until `kill`. */
const listen = async (agent: Agent, address: string, user?: string) => {
  const argv = [process.execPath, '-e', LISTEN, '0', address]
  const command = agent.exec({ argv, env: {}, ...(user !== undefined && { user }) })
  const port = await firstOf(command, (event) => (event.type === 'stdout' ? Number(event.data.toString()) : undefined))
  return { port, kill: () => command.kill(9) }
}

describe.each([
  ...(isRoot ? [{ init: true, name: 'the first process of a sandbox' }] : []),
  { init: false, name: 'an agent among the processes of a host' },
])('seen by $name', ({ init }) => {
  let spawned: SpawnedAgent
  let agent: Agent
  beforeAll(async () => {
    spawned = await spawnAgent({ init })
    agent = await spawned.connect()
  })
  afterAll(async () => {
    await agent.close()
    await spawned[Symbol.asyncDispose]()
  })

  test('what runs is told at once, then what starts and ends; the agent is not', async () => {
    const before = agent.exec({ argv: ['sleep', '70001'], env: {} })
    const pid = await firstOf(before, (event) => (event.type === 'started' ? event.pid : undefined))
    await using observer = observe(agent, spawned.binary)
    expect(await observer.until(start('sleep 70001'))).toMatchObject({ pid, parentPid: expect.any(Number) })
    const after = agent.exec({ argv: ['sleep', '70002'], env: {} })
    await observer.until(start('sleep 70002'))
    before.kill(9)
    expect(await observer.until(({ event }) => event === 'exit')).toMatchObject({ pid, command: 'sleep 70001' })
    after.kill(9)
    await observer.until((change) => change.event === 'exit' && change.command === 'sleep 70002')
    expect(observer.seen.map((change) => change.command).filter((text) => text?.startsWith(spawned.binary))).toEqual([])
    // Its network is the host's here, but an agent among others tells only of its own.
    if (!init) expect(observer.seen.filter(({ type }) => type === 'port')).toEqual([])
  })

  test('command lines are bounded, and clean for terminals', async () => {
    await using observer = observe(agent, spawned.binary)
    const long = agent.exec({ argv: ['sh', '-c', 'sleep 70003; :', 'x'.repeat(5000), '\x1b[31m'], env: {} })
    const change = await observer.until(start('sleep 70003; :'))
    expect(change.command?.length).toBeLessThanOrEqual(1024)
    const bad = agent.exec({ argv: ['sh', '-c', 'sleep 70004; :', '\x1b[31m\n', new Uint8Array([0xff])], env: {} })
    expect((await observer.until(start('sleep 70004; :'))).command).toBe('sh -c sleep 70004; : ?[31m? \ufffd')
    long.kill(9)
    bad.kill(9)
  })

  test('ports are told when they open and close, with whose they are', async () => {
    const elsewhere = createServer().listen(0, '127.0.0.1')
    await using observer = observe(agent, spawned.binary)
    const one = await listen(agent, '127.0.0.1')
    const change = await observer.until(portIs(one.port))
    expect(change).toMatchObject({ event: 'open', port: one.port, address: '127.0.0.1', pid: expect.any(Number) })
    expect(change.command).toContain(process.execPath)
    const two = await listen(agent, '::', isRoot ? 'nobody' : undefined)
    expect(await observer.until(portIs(two.port))).toMatchObject({ address: '::', pid: expect.any(Number) })
    const ports = await listPorts(agent, { agentPath: spawned.binary })
    const mine = ports.filter(({ port }) => !init || port === one.port || port === two.port)
    expect(mine.map(({ address, pid }) => `${address} ${typeof pid}`).sort()).toEqual(['127.0.0.1 number', ':: number'])
    one.kill()
    expect(await observer.until(portIs(one.port))).toMatchObject({ event: 'close' })
    two.kill()
    expect(await observer.until(portIs(two.port))).toMatchObject({ event: 'close' })
    elsewhere.close()
  })

  test('a program that makes many processes is followed', async () => {
    await using observer = observe(agent, spawned.binary)
    const many = agent.exec({ argv: ['sh', '-c', 'for i in $(seq 300); do sleep 70005 & done; wait'], env: {} })
    const started = new Set<number>()
    await observer.until((change) => {
      if (change.type === 'process' && change.command === 'sleep 70005') started.add(change.pid)
      return started.size === 300
    })
    many.kill(9)
    await observer.until((change) => {
      if (change.type === 'process' && change.event === 'exit') started.delete(change.pid)
      return started.size === 0
    })
  })
})
