import { spawn } from 'node:child_process'
import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { newId } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import type { SandboxConfig } from '../runtime.ts'
import { launcherOf } from '../testing/launcher-of.ts'
import { endOf, outputOf, runCommand } from '../testing/run-command.ts'
import { configOf } from '../testing/subject.ts'
import { encodeMessage, readMessages } from './launcher-messages.ts'
import { connectLauncher, startLauncher } from './launcher-process.ts'
import { oci } from './oci.ts'
import { DISK_BYTES, gone, isAlive, pidsOf, useOciNodes } from './testing/oci-nodes.ts'

const KEEPER = fileURLToPath(new URL('./testing/keeper.ts', import.meta.url))
const ROUNDS = 12

const nodes = useOciNodes()
const newLayer = (): string => newId('instance')

/** A node in a process of its own, with a kept sandbox in which `sleeper` runs. */
const startKeeper = async (directory: string) => {
  const image = JSON.stringify({ ...nodes.image })
  const child = spawn(process.execPath, [KEEPER, directory, newLayer(), image, String(DISK_BYTES)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const line = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', resolve)
    child.once('exit', () => reject(new Error('the keeper ended')))
  })
  const launcher = launcherOf(directory)
  if (launcher === undefined) throw new Error('the keeper has no launcher')
  const kill = async () => {
    child.kill('SIGKILL')
    await exited
  }
  return { config: JSON.parse(line) as SandboxConfig, launcher, kill }
}

test('a kept sandbox lives on when its node is killed, and nothing else does', async (context) => {
  const directory = await nodes.directory(context)
  const { config, launcher, kill } = await startKeeper(directory)
  await kill()
  const runtime = await nodes.open(directory)
  expect(launcherOf(directory)).toBe(launcher)
  expect(await runtime.list()).toEqual([config.id])
  expect(await runtime.reap(new Set([config.id]))).toBe(0)
  await using sandbox = await runtime.attach(config)
  const command = sandbox.agent.log.commands.get('sleeper')
  expect(command?.pid).toBeGreaterThan(1)
  expect(await outputOf(sandbox, `cat /root/file; cat /proc/${command?.pid}/cmdline | tr '\\0' ' '`)).toBe(
    'kept\nsleep 100000 ',
  )
  expect(await pidsOf(sandbox)).toHaveLength(2)
  await sandbox.destroy()
  await runtime.close()
  await gone(launcher)
  expect(await readdir(join(directory, 'oci'))).not.toContain('launcher.sock')
})

test('the launcher has nothing of the node that started it', async (context) => {
  const directory = await nodes.directory(context)
  const { launcher, kill } = await startKeeper(directory)
  await kill()
  expect(await readlink(`/proc/${launcher}/cwd`)).toBe('/')
  // proc(5): the fifth field is the process group's, the sixth the session's, the seventh the terminal's.
  const [, , session, terminal] =
    (await readFile(`/proc/${launcher}/stat`, 'utf8')).split(') ')[1]?.split(' ').slice(1) ?? []
  expect([Number(session), Number(terminal)]).toEqual([launcher, 0])
  expect(await readFile(`/proc/${launcher}/environ`, 'utf8')).toMatch(/^PATH=[^\0]*\0$/)
  const targets = await Promise.all(
    (await readdir(`/proc/${launcher}/fd`)).map((fd) => readlink(`/proc/${launcher}/fd/${fd}`).catch(() => '')),
  )
  const own =
    /^(\/dev\/null|socket:.*|anon_inode:\[signalfd\]|user:.*|\/run\/disk.*|\/|.*\/oci|.*\/oci\/launcher\.lock|)$/
  for (const target of targets) expect(target).toMatch(own)
  const socket = await stat(join(directory, 'oci/launcher.sock'))
  expect(socket.mode & 0o777).toBe(0o600)
  expect((await stat(join(directory, 'oci'))).mode & 0o777).toBe(0o700)
})

test('when the launcher is killed its kept sandboxes are gone, and their layers are not', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const config = configOf(nodes, { layer: newLayer() })
  const sandbox = await runtime.create(config)
  await outputOf(sandbox, 'echo kept > /root/file')
  const pids = await pidsOf(sandbox)
  process.kill(Number(launcherOf(directory)), 'SIGKILL')
  expect(await sandbox.ended).toMatchObject({ by: 'itself', detail: 'the launcher ended' })
  expect(await runtime.reap(new Set([config.id]))).toBe(1)
  expect(await runtime.list()).toEqual([])
  for (const pid of pids) await gone(pid)
  await expect(runtime.attach(config)).rejects.toMatchObject({ code: 'not_found' })
  await using next = await runtime.create(configOf(nodes, { layer: config.keep?.layer ?? '' }))
  expect(await outputOf(next, 'cat /root/file')).toBe('kept\n')
  await next.destroy()
})

test('when node and launcher are killed, the next start has the layers and nothing else', async (context) => {
  const directory = await nodes.directory(context)
  const { config, launcher, kill } = await startKeeper(directory)
  process.kill(launcher, 'SIGKILL')
  await kill()
  const runtime = await nodes.open(directory)
  expect(await runtime.list()).toEqual([])
  expect(await runtime.reap()).toBe(2)
  expect(await runtime.reap()).toBe(0)
  await expect(runtime.attach(config)).rejects.toMatchObject({ code: 'not_found' })
  expect(await runtime.layers.list()).toEqual([config.keep?.layer])
  await using next = await runtime.create(configOf(nodes, { layer: config.keep?.layer ?? '' }))
  expect(await outputOf(next, 'cat /root/file')).toBe('kept\n')
  await next.destroy()
})

test('whenever the launcher is killed, what was written before is there and the next sandbox starts', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const layer = newLayer()
  for (let round = 0; round < ROUNDS; round++) {
    const sandbox = await runtime.create(configOf(nodes, { layer }))
    expect(await outputOf(sandbox, `echo ${round} >> /root/rounds; sync; wc -l < /root/rounds`)).toBe(`${round + 1}\n`)
    const launcher = Number(launcherOf(directory))
    const others = [
      sandbox.destroy(),
      runtime.create(configOf(nodes, { layer: newLayer() })),
      runtime.create(configOf(nodes)),
    ]
    setTimeout(() => process.kill(launcher, 'SIGKILL'), round)
    const made = await Promise.allSettled(others)
    for (const one of made) if (one.status === 'fulfilled' && one.value) await one.value.ended
    await gone(launcher)
  }
  await runtime.reap()
  expect(await runtime.list()).toEqual([])
  expect(await runtime.layers.list()).toContain(layer)
})

test('SIGTERM to the launcher ends what it keeps, in order', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const sandbox = await runtime.create(configOf(nodes, { layer: newLayer() }))
  const launcher = Number(launcherOf(directory))
  process.kill(launcher, 'SIGTERM')
  expect(await sandbox.ended).toMatchObject({ by: 'itself' })
  await gone(launcher)
  await using next = await runtime.create(configOf(nodes, { layer: sandbox.config.keep?.layer ?? '' }))
  expect(await endOf(next, ['true'])).toBe(0)
  expect(await runtime.reap()).toBe(0)
  await next.destroy()
})

test('a kept sandbox whose root removed the agent’s socket cannot be attached to, and is reaped', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const config = configOf(nodes, { layer: newLayer() })
  const sandbox = await runtime.create(config)
  await outputOf(sandbox, 'rm /.bramble/run/agent.sock; ln -s /proc/1/fd/0 /.bramble/run/agent.sock')
  await runtime.close()
  const next = await nodes.open(directory)
  await expect(next.attach(config)).rejects.toMatchObject({ code: 'sandbox_failed' })
  expect(await next.list()).toEqual([config.id])
  expect(await next.reap()).toBe(1)
  expect(await next.list()).toEqual([])
})

test('a second node on the directory is refused with the reason', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  await using sandbox = await runtime.create(configOf(nodes))
  const second = await oci({ binary: 'crun', diskBytes: DISK_BYTES })({ dataDirectory: directory })
  expect(second).toMatchObject({
    available: false,
    reason: expect.stringContaining('another node uses the sandboxes of this directory'),
  })
  expect(await endOf(sandbox, ['true'])).toBe(0)
})

/** Says one thing to the launcher of a directory; resolves to its answer, when it has closed the connection. */
const say = async (directory: string, fields: string[]): Promise<string[] | undefined> => {
  const socket = await connectLauncher(join(directory, 'oci'))
  if (!socket) throw new Error('there is no launcher')
  let answer: string[] | undefined
  const closed = new Promise((resolve) => socket.once('close', resolve))
  readMessages(
    socket,
    (fields) => {
      answer = fields
    },
    () => socket.destroy(),
  )
  socket.write(encodeMessage(fields))
  await closed
  return answer
}

test('a node of another version ends nothing that is kept, and is told what to do', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const config = configOf(nodes, { layer: newLayer() })
  await runtime.create(config)
  await runtime.close()
  const launcher = Number(launcherOf(directory))
  const [tag, kind, reason] = (await say(directory, ['1', 'hello', '99'])) ?? []
  expect([tag, kind]).toEqual(['1', 'refused'])
  expect(reason).toContain(`1 kept sandboxes run with the launcher of process ${launcher}: it is of another version`)
  const moved = await say(directory, ['1', 'hello', '2', 'crun', '/bramble/elsewhere', '', '', ''])
  expect(moved?.[2]).toContain('the directory was moved')
  for (const garbage of [
    ['1', 'list'],
    ['', ''],
    ['1', 'hello'],
  ])
    expect(await say(directory, garbage)).toBeUndefined()

  const next = await nodes.open(directory)
  const attached = await next.attach(config)
  expect(await endOf(attached, ['true'])).toBe(0)
  await attached.destroy()
})

test('a launcher that keeps nothing gives way to a node of another version', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  await runtime.close()
  await startLauncher({
    ...{ directory: join(directory, 'oci'), ociBinary: 'crun', cgroup: `/bramble/other${process.pid}` },
    ...{ hierarchies: ['/sys/fs/cgroup/pids'], diskBytes: DISK_BYTES },
  })
  const launcher = Number(launcherOf(directory))
  const next = await nodes.open(directory)
  expect(await isAlive(launcher)).toBe(false)
  await using sandbox = await next.create(configOf(nodes))
  expect(await endOf(sandbox, ['true'])).toBe(0)
})

test('kept sandboxes live on when the next node makes its own with another OCI runtime', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  const config = configOf(nodes, { layer: newLayer() })
  await runtime.create(config)
  await runtime.close()
  const next = await nodes.open(directory, { binary: 'runc' })
  const attached = await next.attach(config)
  await using own = await next.create(configOf(nodes))
  expect(await Promise.all([attached, own].map((sandbox) => endOf(sandbox, ['true'])))).toEqual([0, 0])
  await attached.destroy()
})

test('a launcher that no node ever comes to goes', async (context) => {
  const directory = await nodes.directory(context)
  await nodes.open(directory).then((runtime) => runtime.close())
  await startLauncher({
    ...{ directory: join(directory, 'oci'), ociBinary: 'crun', cgroup: `/bramble/nobody${process.pid}` },
    ...{ hierarchies: ['/sys/fs/cgroup/pids'], diskBytes: DISK_BYTES },
  })
  await gone(Number(launcherOf(directory)))
})

test('all users of a sandbox reach the socket of events, and root alone the agent’s', async (context) => {
  const runtime = await nodes.open(await nodes.directory(context))
  await using sandbox = await runtime.create(configOf(nodes))
  const look = 'stat -c "%a %F" /.bramble/run /.bramble/run/events.sock /.bramble/run/agent.sock; ls /.bramble/run'
  const { stdout, exit } = await runCommand(sandbox, look, { user: 'app' })
  expect(stdout.toString()).toBe('711 directory\n666 socket\n600 socket\n')
  expect(exit).toMatchObject({ code: 1 })
})
