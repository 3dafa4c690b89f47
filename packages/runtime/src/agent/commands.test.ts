import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Agent } from './agent.ts'
import { finish, run, type SpawnedAgent, shell, spawnAgent, spawnStdioAgent } from './testing/spawn-agent.ts'

const isRoot = process.getuid?.() === 0

describe('commands of the real agent', () => {
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

  it('gets its arguments as they are, empty ones and any characters included', async () => {
    const words = ['', 'a b', '*', '$HOME', 'ü', '\n', '"', '-n']
    const { stdout, exit } = await run(agent, [
      'sh',
      '-c',
      'for w in "$@"; do printf "[%s]" "$w"; done',
      'sh',
      ...words,
    ])
    expect(stdout).toBe(words.map((word) => `[${word}]`).join(''))
    expect(exit).toMatchObject({ kind: 'exited', code: 0 })
  })

  it('gets its environment and no other', async () => {
    const { stdout } = await run(agent, ['/usr/bin/env'], { env: { B: 'x=y', A: '' } })
    expect(stdout.split('\n').sort()).toEqual(['', 'A=', 'B=x=y'])
  })

  it('is looked up in its own PATH, then in the default one', async () => {
    const folder = join(spawned.folder, 'bin')
    await mkdir(folder)
    await writeFile(join(folder, 'hello-there'), '#!/bin/sh\necho found\n')
    await chmod(join(folder, 'hello-there'), 0o755)
    expect((await run(agent, ['hello-there'], { env: { PATH: `/nowhere:${folder}` } })).stdout).toBe('found\n')
    expect((await run(agent, ['echo', 'hi'], { env: {} })).stdout).toBe('hi\n')
    expect((await run(agent, ['echo', 'hi'], { env: { PATH: '' } })).exit).toMatchObject({ kind: 'failed', errno: 2 })
  })

  it('starts in /, or where it is told', async () => {
    expect((await run(agent, ['pwd'])).stdout).toBe('/\n')
    expect((await run(agent, ['pwd'], { workdir: '/usr/bin' })).stdout).toBe('/usr/bin\n')
    const { exit, types } = await run(agent, ['pwd'], { workdir: '/no/such' })
    expect(exit).toMatchObject({ kind: 'failed', errno: 2, step: 'workdir', message: 'No such file or directory' })
    expect(types).toEqual(['exit'])
  })

  it('ends with its exit code or its signal, with what it used', async () => {
    expect((await shell(agent, 'exit 255')).exit).toMatchObject({ kind: 'exited', code: 255 })
    const { exit } = await shell(agent, 'kill -TERM $$')
    expect(exit).toMatchObject({ kind: 'signalled', signal: 15 })
    const busy = (await shell(agent, 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done')).exit
    if (busy.kind !== 'exited') throw new Error('it did not exit')
    expect(busy.rusage.userMicros + busy.rusage.systemMicros).toBeGreaterThan(0)
    expect(busy.rusage.peakResidentBytes).toBeGreaterThan(500_000)
  })

  it('has two streams, told apart, and STARTED first and EXIT last', async () => {
    const { stdout, stderr, types } = await shell(agent, 'echo out; echo err >&2; echo out2')
    expect(stdout).toBe('out\nout2\n')
    expect(stderr).toBe('err\n')
    expect(types[0]).toBe('started')
    expect(types.at(-1)).toBe('exit')
  })

  it('fails with the errno of the step that failed', async () => {
    const text = join(spawned.folder, 'text')
    await writeFile(text, 'no program')
    expect((await run(agent, ['no-such-command'])).exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 2 })
    expect((await run(agent, [''])).exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 2 })
    expect((await run(agent, [text])).exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 13 })
    expect((await run(agent, ['/tmp'])).exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 13 })
    await chmod(text, 0o755)
    expect((await run(agent, [text])).exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 8 })
  })

  it('runs in a session of its own, with default signals, an empty mask, and nothing open but its three streams', async () => {
    const { stdout } = await shell(agent, 'cat /proc/self/status; ls /proc/self/fd | wc -l; ps -o sid= -p $$; echo $$')
    expect(stdout).toMatch(/^SigBlk:\s+0+$/m)
    expect(stdout).toMatch(/^SigIgn:\s+0+$/m)
    const [fds, session, pid] = stdout.trim().split('\n').slice(-3).map(Number)
    expect(fds).toBe(4) // 0, 1, 2, and the folder that ls reads
    expect(session).toBe(pid)
  })

  it('has /dev/null for standard input where it has none', async () => {
    expect((await shell(agent, 'readlink /proc/self/fd/0; cat')).stdout).toBe('/dev/null\n')
  })

  it('keeps the limits it is given, and writes no core by default', async () => {
    const rlimits = { openFiles: 32, fileSizeBytes: 1024 }
    expect((await shell(agent, 'ulimit -n; ulimit -c', { rlimits })).stdout).toBe('32\n0\n')
    const { exit } = await shell(agent, `exec head -c 5000 /dev/zero > ${spawned.folder}/big`, { rlimits })
    expect(exit).toMatchObject({ kind: 'signalled', signal: 25 })
  })

  it.runIf(isRoot)('becomes the user, by name or number, with the groups of that user', async () => {
    const id = async (user: string) => (await run(agent, ['id'], { user })).stdout.trim()
    expect(await id('nobody')).toBe('uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)')
    expect(await id('65534')).toBe('uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)')
    expect(await id('1234567:7654321')).toBe('uid=1234567 gid=7654321 groups=7654321')
    expect(await id('daemon:tty')).toBe('uid=1(daemon) gid=5(tty) groups=5(tty)')
    expect(await id('1234567')).toBe('uid=1234567 gid=0(root) groups=0(root)')
  })

  it.runIf(isRoot)('is what the kernel prefers to the agent when memory runs out', async () => {
    await using other = await spawnAgent()
    await writeFile(`/proc/${other.pid}/oom_score_adj`, '300')
    const its = await other.connect()
    expect((await run(its, ['cat', '/proc/self/oom_score_adj'], { user: 'nobody' })).stdout).toBe('1000\n')
  })

  it('says so when there is no such user or group', async () => {
    for (const user of ['no-such-user', 'root:no-such-group', '4294967295', '99999999999', '-1', ':', 'root:']) {
      const { exit } = await run(agent, ['true'], { user })
      expect(exit, user).toMatchObject({ kind: 'failed', errno: 2, step: 'user', message: 'No such user or group' })
    }
  })

  it('takes a large environment, and says when the kernel finds it too large', async () => {
    const env = Object.fromEntries(Array.from({ length: 7 }, (_, i) => [`V${i}`, 'x'.repeat(100_000)]))
    expect((await run(agent, ['/usr/bin/env'], { env })).stdout).toHaveLength(7 * 100_004)
    const { exit } = await run(agent, ['/bin/true'], { env: { V: 'x'.repeat(200_000) } })
    expect(exit).toMatchObject({ kind: 'failed', step: 'exec', errno: 7 })
  })

  it('is refused before it is sent when it cannot be one', () => {
    const refused = (request: Parameters<Agent['exec']>[0]) => {
      expect(() => agent.exec(request)).toThrowError(expect.objectContaining({ code: 'invalid_request' }))
    }
    refused({ argv: [] })
    refused({ argv: ['a\0b'] })
    refused({ argv: ['a'], env: { '': 'x' } })
    refused({ argv: ['a'], env: { 'A=B': 'x' } })
    refused({ argv: ['a'], env: { A: 'x\0' } })
    refused({ argv: ['a'], workdir: '/\0' })
    refused({ argv: ['a', 'x'.repeat(1024 * 1024)] })
  })

  it('runs beside hundreds of others, each with its own output', async () => {
    const numbers = Array.from({ length: 240 }, (_, i) => i)
    const results = await Promise.all(numbers.map((i) => shell(agent, `echo ${i}; echo e${i} >&2; exit ${i % 250}`)))
    for (const [i, { stdout, stderr, exit }] of results.entries()) {
      expect([stdout, stderr]).toEqual([`${i}\n`, `e${i}\n`])
      expect(exit).toMatchObject({ code: i % 250 })
    }
  })

  it('fails alone when there are too many', async () => {
    const waiting = Array.from({ length: 256 }, () => agent.exec({ argv: ['cat'], stdin: 'pipe' }))
    const { exit } = await run(agent, ['true'])
    expect(exit).toMatchObject({ kind: 'failed', step: 'fork', errno: 11 })
    for (const command of waiting) command.end()
    for (const command of waiting) expect((await finish(command)).exit).toMatchObject({ kind: 'exited', code: 0 })
    expect((await run(agent, ['true'])).exit).toMatchObject({ code: 0 })
  })

  it('answers a ping, and one whose caller does not wait for it', async () => {
    await Promise.all([agent.ping(), agent.ping(), agent.ping()])
    await expect(agent.ping({ signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no')
    const controller = new AbortController()
    const ping = agent.ping({ signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(ping).rejects.toThrow('enough')
    await agent.ping()
  })

  it('works the same over standard streams, and the agent ends with them', async () => {
    const { agent: other, child } = await spawnStdioAgent()
    expect((await shell(other, 'cat; echo ok', { stdin: 'none' })).stdout).toBe('ok\n')
    const sleeper = other.exec({ argv: ['sleep', '1000'] })[Symbol.asyncIterator]()
    const started = await sleeper.next()
    const gone = new Promise((resolve) => child.once('exit', resolve))
    await other.close()
    await gone
    await expect(sleeper.next()).rejects.toBeInstanceOf(BrambleError)
    const pid = started.value?.type === 'started' ? started.value.pid : 0
    expect(() => process.kill(pid, 0)).toThrow()
  })
})
