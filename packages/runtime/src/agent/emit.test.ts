import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Agent } from './agent.ts'
import { connectAgent } from './connect-agent.ts'
import { run, type SpawnedAgent, spawnAgent } from './testing/spawn-agent.ts'

/** What programs emitted, as JSON; acknowledged only when the test says so. */
const emittedOf = (agent: Agent) => {
  const all: { seq: number; value: unknown }[] = []
  const waiters: { count: number; resolve: () => void }[] = []
  agent.log.read((entry) => {
    if (!('emitted' in entry)) return
    all.push({ seq: entry.seq, value: JSON.parse(entry.emitted.toString('utf8')) })
    for (const { count, resolve } of waiters) if (all.length >= count) resolve()
  })
  const first = (count: number) =>
    new Promise<void>((resolve) => {
      if (all.length >= count) resolve()
      else waiters.push({ count, resolve })
    }).then(() => all.slice(0, count).map(({ value }) => value))
  return { all, first }
}

describe('events of programs', () => {
  let spawned: SpawnedAgent
  let agent: Agent
  let env: Record<string, string>
  beforeEach(async () => {
    spawned = await spawnAgent({ events: true, keep: true })
    agent = await spawned.connect()
    env = { PATH: process.env.PATH ?? '', BRAMBLE_EVENTS: join(spawned.folder, 'events.sock') }
  })
  afterEach(async () => {
    await agent.close()
    await spawned[Symbol.asyncDispose]()
  })
  const emit = (words: string[], extra: { program?: string; user?: string } = {}) =>
    run(agent, extra.program ? [extra.program, ...words] : [spawned.binary, 'emit', ...words], { env, ...extra })

  it('have a name and data: JSON where it is JSON, else a string', async () => {
    const data = [
      ['{"a": [1, -2.5e3, true, null, "\\u00e9\\n"]}', { a: [1, -2500, true, null, 'é\n'] }],
      ['[]', []],
      ['12', 12],
      ['false', false],
      [' "x" ', 'x'],
      ['plain', 'plain'],
      ['', ''],
      ['{"a": 1', '{"a": 1'],
      ['{"a" 1}', '{"a" 1}'],
      ['[1,]', '[1,]'],
      ['01', '01'],
      ['1.', '1.'],
      ['"\\x"', '"\\x"'],
      ['nulll', 'nulll'],
      ['tab\t"quote" \\ é \x7f', 'tab\t"quote" \\ é \x7f'],
      [`${'['.repeat(100)}${']'.repeat(100)}`, `${'['.repeat(100)}${']'.repeat(100)}`],
    ] as const
    const emitted = emittedOf(agent)
    for (const [text] of data) expect((await emit(['it "is" é', text])).exit).toMatchObject({ code: 0 })
    expect(await emitted.first(data.length)).toEqual(data.map(([, value]) => ({ name: 'it "is" é', data: value })))
    await emit(['bare'])
    expect((await emitted.first(data.length + 1)).at(-1)).toEqual({ name: 'bare', data: null })
  })

  it('take their data from standard input, and what is no UTF-8 is replaced', async () => {
    const emitted = emittedOf(agent)
    const command = agent.exec({ argv: [spawned.binary, 'emit', 'in', '-'], env, stdin: 'pipe' })
    await command.write(Buffer.from([0x61, 0xff, 0xc3, 0xa9, 0xed, 0xa0, 0x80, 0x62]))
    command.end()
    expect(await emitted.first(1)).toEqual([{ name: 'in', data: 'a\ufffdé\ufffd\ufffd\ufffdb' }])
  })

  it('come from bramble-emit too, and from any program that writes a datagram', async () => {
    const emitted = emittedOf(agent)
    const program = join(spawned.folder, 'bramble-emit')
    await symlink(spawned.binary, program)
    expect(await emit(['by-name', '{"n":1}'], { program })).toMatchObject({ exit: { code: 0 }, stderr: '' })
    const script = `import socket, json
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(json.dumps({"name": "py", "data": [1]}).encode(), ${JSON.stringify(env.BRAMBLE_EVENTS)})`
    await promisify(execFile)('python3', ['-c', script])
    expect(await emitted.first(2)).toEqual([
      { name: 'by-name', data: { n: 1 } },
      { name: 'py', data: [1] },
    ])
  })

  it('are refused clearly: too long, without a name, where nobody listens', async () => {
    expect(await emit(['x', 'y'.repeat(8200)])).toMatchObject({
      exit: { code: 1 },
      stderr: expect.stringMatching(/8192 bytes/),
    })
    expect(await emit(['x', '\x01'.repeat(2000)])).toMatchObject({
      exit: { code: 1 },
      stderr: expect.stringMatching(/8192 bytes/),
    })
    expect(await emit([''])).toMatchObject({ exit: { code: 64 } })
    expect(await emit([])).toMatchObject({ exit: { code: 64 }, stderr: expect.stringMatching(/usage/) })
    env.BRAMBLE_EVENTS = join(spawned.folder, 'none.sock')
    expect(await emit(['x'])).toMatchObject({ exit: { code: 1 }, stderr: expect.stringMatching(/nobody takes events/) })
    expect(await emit(['x', 'y'.repeat(8000)])).toMatchObject({
      exit: { code: 1 },
      stderr: expect.stringMatching(/nobody takes events/),
    })
  })

  it('wait while the log is full, and go on when it is taken', async () => {
    const emitted = emittedOf(agent)
    const script = `i=0; while [ $i -lt 100 ]; do ${spawned.binary} emit n $i; i=$((i+1)); head -c 7000 /dev/zero | tr '\\0' x | ${spawned.binary} emit big -; done; echo done`
    const command = agent.exec({ argv: ['sh', '-c', script], env })
    const said = (async () => {
      for await (const event of command) if (event.type === 'stdout') return event.data.toString()
      return ''
    })()
    await emitted.first(20)
    // 700 KB do not fit: it stands still until somebody takes them.
    expect(await Promise.race([said, emitted.first(200).then(() => 'all'), agent.ping().then(() => 'waits')])).toBe(
      'waits',
    )
    for (let count = 20; count <= 200; count++) {
      await emitted.first(count)
      agent.log.acknowledge(emitted.all[count - 1]?.seq ?? 0)
    }
    expect(await said).toBe('done\n')
    const names = emitted.all.map(({ value }) => (value as { name: string; data: unknown }).name)
    expect(names).toEqual(Array.from({ length: 100 }, () => ['n', 'big']).flat())
  })
})

describe('the relay', () => {
  it('carries an agent through the standard streams of a program, and ends with either side', async () => {
    await using spawned = await spawnAgent({ keep: true })
    const open = () => {
      const child = spawn(spawned.binary, ['relay', join(spawned.folder, 'agent.sock')], { stdio: 'pipe' })
      const stream = Duplex.from({ readable: child.stdout, writable: child.stdin })
      stream.on('error', () => undefined)
      return { child, stream, exit: once(child, 'exit') }
    }
    for (let round = 0; round < 3; round++) {
      const { child, stream, exit } = open()
      const agent = await connectAgent(stream)
      const bytes = 8 * 1024 * 1024
      const ran = await run(agent, ['head', '-c', String(bytes), '/dev/zero'])
      expect(ran.stdout.length).toBe(bytes)
      const echo = agent.exec({ argv: ['wc', '-c'], env: { PATH: process.env.PATH ?? '' }, stdin: 'pipe' })
      await echo.write(Buffer.alloc(bytes))
      echo.end()
      for await (const event of echo) if (event.type === 'stdout') expect(event.data.toString()).toBe(`${bytes}\n`)
      // One that is killed, one whose input ends, one whose output nobody takes.
      if (round === 0) child.kill('SIGKILL')
      else if (round === 1) child.stdin.end()
      else child.stdout.destroy()
      await agent.closed
      await exit
    }
    const { stream, exit } = open()
    const agent = await connectAgent(stream)
    spawned.child.kill('SIGTERM')
    await agent.closed
    expect(await exit).toEqual([0, null])
    expect(await once(open().child, 'exit')).toEqual([1, null])
  })
})
