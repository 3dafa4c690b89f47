import { readdirSync, readFileSync } from 'node:fs'
import { truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { newId } from '@bramble/protocol'
import { expect, type TestContext, test } from 'vitest'
import type { Sandbox, SandboxConfig } from '../runtime.ts'
import { followLog } from '../testing/follow-log.ts'
import { launcherOf } from '../testing/launcher-of.ts'
import { endOf, PATH } from '../testing/run-command.ts'
import { skip } from '../testing/subject.ts'
import { useOciNodes } from './testing/oci-nodes.ts'

const nodes = useOciNodes()
const SEALS = 'root/run/disk/.seals'
/** So much that saving it takes a while. */
const COUNTER = 'v=$(head -c 20000000 /dev/zero | tr "\\0" x); n=; while :; do n=x$n; echo $n; sleep 0.01; done'

const configOf = (changes: Partial<SandboxConfig> = {}): SandboxConfig => ({
  id: newId('sandbox'),
  image: nodes.image,
  resources: { cpus: 1, memoryMb: 256, diskMb: 64, pids: 64 },
  ...changes,
})

const open = async (context: TestContext) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  if (!runtime.capabilities.checkpoint) skip(context, 'no CRIU on this host')
  return { directory, runtime }
}

const startCounter = async (sandbox: Sandbox) => {
  const log = followLog(sandbox)
  sandbox.agent.log.start({ argv: ['sh', '-c', COUNTER], env: { PATH } }, 'counter')
  await log.until(() => log.text('counter').includes('xx'))
  return log
}

/** The CRIU that the launcher has started, if it runs. */
const criuOf = (launcher: number): number | undefined =>
  readdirSync('/proc')
    .filter(Number)
    .map(Number)
    .find((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/status`, 'utf8').includes(`\nPPid:\t${launcher}\n`) &&
          readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('\0--images-dir\0')
        )
      } catch {
        return false
      }
    })

/** How many files CRIU has made for a seal so far. */
const filesOf = (launcher: number, name: string): number => {
  try {
    return readdirSync(`/proc/${launcher}/${SEALS}/.${name}/memory`).length
  } catch {
    return 0
  }
}

/** Kills what `victim` finds as soon as it does. On a busy host `work` may be over before. */
const killDuring = async (work: Promise<unknown>, victim: () => number | undefined): Promise<void> => {
  let over = false
  void work.then(() => {
    over = true
  })
  while (!over) {
    const pid = victim()
    try {
      if (pid !== undefined) return void process.kill(pid, 'SIGKILL')
    } catch {}
    await setImmediate()
  }
}

const codeOf = (error: unknown): string => (error as { code: string }).code

const sealsOf = (directory: string): string[] => readdirSync(`/proc/${launcherOf(directory)}/${SEALS}`)

test('a CRIU that is killed while it saves leaves the sandbox as it was', async (context) => {
  const { directory, runtime } = await open(context)
  await using sandbox = await runtime.create(configOf())
  const launcher = launcherOf(directory) ?? 0
  const log = await startCounter(sandbox)
  for (const files of [0, 6, 18]) {
    const name = `killed_${files}`
    const sealing = sandbox.seal?.({ name, memory: true }).then(() => 'made', codeOf) ?? Promise.resolve('')
    await killDuring(sealing, () => (filesOf(launcher, name) < files ? undefined : criuOf(launcher)))
    expect(['sandbox_failed', 'made']).toContain(await sealing)
    expect(sealsOf(directory)).toEqual((await sealing) === 'made' ? [name] : [])
    await runtime.seals?.remove(name)
    const later = log.text('counter').length + 500
    await log.until(() => log.text('counter').length > later)
    expect(await endOf(sandbox, ['true'])).toBe(0)
  }
  await sandbox.seal?.({ name: 'whole', memory: true })
  await using copy = await runtime.create(configOf({ from: { seal: 'whole', memory: true } }))
  expect([...copy.agent.log.commands.keys()]).toEqual(['counter'])
})

test('a sandbox that is destroyed while it is saved has died, and leaves no seal', async (context) => {
  const { directory, runtime } = await open(context)
  const sandbox = await runtime.create(configOf())
  await startCounter(sandbox)
  const launcher = launcherOf(directory) ?? 0
  const sealing = sandbox.seal?.({ name: 'state', memory: true }).then(() => 'made', codeOf) ?? Promise.resolve('')
  let over = false
  void sealing.then(() => {
    over = true
  })
  while (!over && criuOf(launcher) === undefined) await setImmediate()
  await sandbox.destroy()
  expect(['sandbox_died', 'made']).toContain(await sealing)
  expect(sealsOf(directory)).toEqual((await sealing) === 'made' ? ['state'] : [])
  expect(await runtime.list()).toEqual([])
})

test('a restore leaves nothing when it is aborted at any turn, its CRIU is killed, or its launcher', async (context) => {
  const { directory, runtime } = await open(context)
  const parent = await runtime.create(configOf())
  await startCounter(parent)
  await parent.seal?.({ name: 'state', memory: true })
  await parent.destroy()
  const from = { seal: 'state', memory: true }
  const reason = new Error('not wanted any more')
  for (let turns = 0; turns < 3000; turns = turns * 2 + 1) {
    const controller = new AbortController()
    const creating = runtime.create(configOf({ from }), { signal: controller.signal })
    const ended = creating.then(
      (sandbox) => sandbox.destroy(),
      (error: unknown) => expect(error).toBe(reason),
    )
    for (let turn = 0; turn < turns; turn++) await setImmediate()
    controller.abort(reason)
    await ended
    expect(await runtime.list()).toEqual([])
  }
  for (const victim of ['CRIU', 'launcher']) {
    const launcher = launcherOf(directory) ?? 0
    const creating = runtime.create(configOf({ from }))
    const ended = creating.then((sandbox) => sandbox.destroy(), codeOf)
    await killDuring(ended, () => criuOf(launcher) && (victim === 'CRIU' ? criuOf(launcher) : launcher))
    expect(['sandbox_failed', undefined]).toContain(await ended)
    expect(await runtime.list()).toEqual([])
  }
  await using copy = await runtime.create(configOf({ from }))
  expect([...copy.agent.log.commands.keys()]).toEqual(['counter'])
  expect(await runtime.list()).toEqual([copy.id])
})

test('a restore that the launcher refuses leaves no cgroups', async (context) => {
  const { runtime } = await open(context)
  const sandbox = await runtime.create(configOf())
  await sandbox.seal?.({ name: 'state', memory: true })
  await sandbox.destroy()
  const config = configOf({ from: { seal: 'state', memory: true } })
  const path = `${nodes.base}/no\nlayer`
  await expect(runtime.create({ ...config, image: { ...config.image, rootfs: path } })).rejects.toMatchObject({
    code: 'sandbox_failed',
  })
  expect(await runtime.list()).toEqual([])
})

test('an agent that cannot be reached again after its memory was saved is lost, and keeps nobody waiting', async (context) => {
  const { runtime } = await open(context)
  await using sandbox = await runtime.create(configOf())
  await endOf(sandbox, 'rm /.bramble/run/agent.sock')
  const waiting = expect(endOf(sandbox, 'sleep 1000')).rejects.toMatchObject({ code: 'sandbox_died' })
  await expect(sandbox.seal?.({ name: 'state', memory: true })).rejects.toMatchObject({ code: 'sandbox_failed' })
  await waiting
  await sandbox.agent.closed
  expect(await runtime.seals?.list()).toEqual([])
})

test('what the power left of a seal that was never synced is removed', async (context) => {
  const { directory, runtime } = await open(context)
  await using sandbox = await runtime.create(configOf())
  for (const name of ['synced', 'cut']) await sandbox.seal?.({ name, memory: false })
  await truncate(join(`/proc/${launcherOf(directory)}`, SEALS, 'cut/info.json'))
  expect(await runtime.seals?.list()).toEqual([{ name: 'synced', memory: false }])
  expect(readdirSync(`/proc/${launcherOf(directory)}/${SEALS}`)).toEqual(['synced'])
})
