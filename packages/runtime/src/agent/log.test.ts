import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Agent, LogEntry } from './agent.ts'
import { type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const sh = (script: string) => ({ argv: ['sh', '-c', script], env: { PATH: process.env.PATH ?? '' } })

/** Reads the log of a connection, and waits for what a test looks for. */
const reader = (agent: Agent, { acknowledge = true } = {}) => {
  const entries: LogEntry[] = []
  let check = (): void => {}
  agent.log.read((entry) => {
    entries.push(entry)
    if (acknowledge) agent.log.acknowledge(entry.seq)
    check()
  })
  const until = (done: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      check = () => {
        if (done()) resolve()
      }
      check()
    })
  const text = (name: string): string =>
    entries
      .flatMap((entry) =>
        'event' in entry && entry.name === name && entry.event.type === 'stdout' ? [entry.event.data.toString()] : [],
      )
      .join('')
  const exited = (name: string): boolean =>
    entries.some((entry) => 'event' in entry && entry.name === name && entry.event.type === 'exit')
  return { entries, until, text, exited }
}

describe('the log', () => {
  let spawned: SpawnedAgent
  beforeEach(async () => {
    spawned = await spawnAgent({ keep: true, events: true })
  })
  afterEach(() => spawned[Symbol.asyncDispose]())

  it('tells what named commands say, numbered one by one, while others go on as they are', async () => {
    await using agent = await spawned.connect()
    const { entries, until, exited, text } = reader(agent)
    const command = agent.log.start({ ...sh('read line; echo "got $line"; exit 3'), stdin: 'pipe' }, 'one')
    expect([...agent.log.commands.keys()]).toEqual(['one'])
    expect((await shell(agent, 'echo plain')).stdout).toBe('plain\n')
    await command.write(Buffer.from('hello\n'))
    await until(() => exited('one'))
    expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, i) => i + 1))
    expect(entries.map((entry) => ('event' in entry ? entry.event.type : ''))).toEqual(['started', 'stdout', 'exit'])
    expect(text('one')).toBe('got hello\n')
    expect(entries.at(-1)).toMatchObject({ name: 'one', event: { kind: 'exited', code: 3 } })
    expect(agent.log.commands.size).toBe(0)
    expect(agent.log.nextSeq).toBe(4)
  })

  it('refuses a name that is in use, and names that are none', async () => {
    await using agent = await spawned.connect()
    const { until } = reader(agent)
    const command = agent.log.start(sh('read x'), 'a')
    expect(() => agent.log.start(sh('true'), 'a')).toThrow(expect.objectContaining({ code: 'conflict' }))
    for (const name of ['', 'a b', 'x'.repeat(65), 'é'])
      expect(() => agent.log.start(sh('true'), name)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
    command.kill(9)
    await until(() => agent.log.commands.size === 0)
  })

  it('tells of a command that does not start', async () => {
    await using agent = await spawned.connect()
    const { entries, until, exited } = reader(agent)
    agent.log.start({ argv: ['/nowhere/at/all'] }, 'x')
    await until(() => exited('x'))
    expect(entries).toMatchObject([
      { seq: 1, name: 'x', event: { type: 'exit', kind: 'failed', step: 'exec', errno: 2 } },
    ])
  })

  it('outlives its connection: the command goes on, and the next connection has all of it', async () => {
    const first = await spawned.connect()
    const before = reader(first)
    first.log.start({ ...sh('echo one; read go; echo two; read go; echo three'), stdin: 'pipe' }, 'job')
    await before.until(() => before.text('job') === 'one\n')
    const pid = first.log.commands.get('job')?.pid
    await first.close()

    const second = await spawned.connect()
    expect(second.log.commands.get('job')).toMatchObject({ name: 'job', pid, pty: false })
    const between = reader(second)
    await second.log.commands.get('job')?.write(Buffer.from('\n'))
    await between.until(() => between.text('job') === 'one\ntwo\n')
    await second.close()

    await using third = await spawned.connect()
    const after = reader(third)
    await third.log.commands.get('job')?.write(Buffer.from('\n'))
    await after.until(() => after.exited('job'))
    expect(after.text('job')).toBe('one\ntwo\nthree\n')
    expect(after.entries.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5])
  })

  it('loses nothing of a flood while the host is gone, and forgets only what was acknowledged', async () => {
    const lines = 60_000
    const first = await spawned.connect()
    const before = reader(first)
    first.log.start(sh(`i=0; while [ $i -lt ${lines} ]; do echo "line $i"; i=$((i+1)); done`), 'flood')
    await before.until(() => before.text('flood').length > 100_000)
    await first.close()
    const last = before.entries.at(-1)?.seq ?? 0

    await using second = await spawned.connect()
    const after = reader(second)
    expect(second.log.firstSeq).toBeLessThanOrEqual(last + 1)
    await after.until(() => after.exited('flood'))
    const seen = before.entries.filter(({ seq }) => seq < second.log.firstSeq).concat(after.entries)
    expect(seen.map(({ seq }) => seq)).toEqual(seen.map((_, i) => i + 1))
    const output = seen.map((entry) =>
      'event' in entry && entry.event.type === 'stdout' ? entry.event.data.toString() : '',
    )
    expect(output.join('')).toBe(Array.from({ length: lines }, (_, i) => `line ${i}\n`).join(''))
  })

  it('makes a command wait for whoever does not acknowledge, and others do not wait for it', async () => {
    await using agent = await spawned.connect()
    const { entries, until, exited } = reader(agent, { acknowledge: false })
    agent.log.start(sh('yes | head -c 1000000'), 'much')
    const bytes = (): number =>
      entries.reduce(
        (sum, entry) => sum + ('event' in entry && entry.event.type === 'stdout' ? entry.event.data.length : 0),
        0,
      )
    await until(() => bytes() > 100_000)
    expect((await shell(agent, 'echo plain')).stdout).toBe('plain\n')
    expect(bytes()).toBeLessThan(256 * 1024)
    for (const { seq } of entries) agent.log.acknowledge(seq)
    await until(() => {
      agent.log.acknowledge(entries.at(-1)?.seq ?? 0)
      return exited('much')
    })
    expect(bytes()).toBe(1_000_000)
  })

  it('carries what programs emit, and drops what is too long', async () => {
    await using agent = await spawned.connect()
    const { entries, until } = reader(agent)
    const path = join(spawned.folder, 'events.sock')
    const send = (text: string) =>
      promisify(execFile)('python3', [
        '-c',
        'import socket,sys; s=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(sys.argv[1]); s.send(eval(sys.argv[2]))',
        path,
        text,
      ])
    await send("b'first'")
    await send("b'x'*9000")
    await send("b'y'*8192")
    await until(() => entries.length === 2)
    expect(entries.map((entry) => ('emitted' in entry ? entry.emitted.length : -1))).toEqual([5, 8192])
  })

  it('has room for as many named commands as it says', async () => {
    await using agent = await spawned.connect()
    const { until } = reader(agent)
    for (let i = 0; i < 64; i++) agent.log.start(sh('read x'), `c${i}`)
    expect(() => agent.log.start(sh('true'), 'more')).toThrow(expect.objectContaining({ code: 'conflict' }))
    for (const command of agent.log.commands.values()) command.kill(9)
    await until(() => agent.log.commands.size === 0)
    agent.log.start(sh('true'), 'more')
    await until(() => agent.log.commands.size === 0)
  })
})
