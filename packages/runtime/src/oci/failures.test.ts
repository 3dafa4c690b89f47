import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, readlink, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { launcherOf as launcherOfDirectory } from '../testing/launcher-of.ts'
import { endOf } from '../testing/run-command.ts'
import { configOf } from '../testing/subject.ts'
import { type OciOptions, oci } from './oci.ts'
import { DISK_BYTES, isAlive, pidsOf, useOciNodes } from './testing/oci-nodes.ts'

const run = promisify(execFile)
const SECTOR_BYTES = 1024 * 1024

const nodes = useOciNodes()

const open = async (context: TestContext, options: OciOptions = {}): Promise<Runtime> =>
  nodes.open(await nodes.directory(context), options)

/** A crun that goes wrong once the file `trigger` is there, by the lines of `script`. */
const brokenCrun = async (script: string): Promise<{ binary: string; trigger: string }> => {
  const directory = await mkdtemp(join(nodes.base, 'crun-'))
  const binary = join(directory, 'crun')
  const trigger = join(directory, 'broken')
  await writeFile(binary, `#!/bin/sh\n[ -e ${trigger} ] || exec crun "$@"\n${script}\n`, { mode: 0o755 })
  return { binary, trigger }
}

/** The launcher: what PID 1 of a sandbox is a child of. */
const launcherOf = async (sandbox: Sandbox): Promise<number> => {
  const [pid] = await pidsOf(sandbox)
  return Number(/^PPid:\s+(\d+)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1])
}

const codeOf = (error: unknown): string => (error as { code: string }).code

test('a launcher that is killed takes its sandboxes along, and the next one serves', async (context) => {
  const runtime = await open(context)
  const sandbox = await runtime.create(configOf(nodes))
  const pids = await pidsOf(sandbox)
  expect(pids.length).toBeGreaterThan(0)
  const running = endOf(sandbox, 'sleep 1000').catch(codeOf)
  process.kill(await launcherOf(sandbox), 'SIGKILL')
  expect(await running).toBe('sandbox_died')
  expect(await sandbox.ended).toMatchObject({ by: 'itself' })
  await sandbox.destroy()
  await using next = await runtime.create(configOf(nodes))
  expect(await endOf(next, ['true'])).toBe(0)
  expect(await runtime.list()).toEqual([next.id])
  for (const pid of pids) expect(await isAlive(pid)).toBe(false)
})

test('a creation that the launcher dies in is an error, and leaves nothing', async (context) => {
  const { binary, trigger } = await brokenCrun('kill -9 $PPID; exec crun "$@"')
  const runtime = await open(context, { binary })
  await writeFile(trigger, '')
  await expect(runtime.create(configOf(nodes))).rejects.toMatchObject({ code: 'sandbox_failed' })
  await rm(trigger)
  await using next = await runtime.create(configOf(nodes))
  expect(await runtime.list()).toEqual([next.id])
})

test('an OCI runtime that hangs is given up when the creation is aborted', async (context) => {
  const { binary, trigger } = await brokenCrun('sleep 1000')
  const runtime = await open(context, { binary })
  await writeFile(trigger, '')
  const reason = new Error('not wanted any more')
  await expect(runtime.create(configOf(nodes), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  const controller = new AbortController()
  const creating = runtime.create(configOf(nodes), { signal: controller.signal })
  setImmediate(() => controller.abort(reason))
  await expect(creating).rejects.toBe(reason)
  expect(await runtime.list()).toEqual([])
})

test('an OCI runtime that fails when the sandbox runs already leaves nothing of it', async (context) => {
  const { binary, trigger } = await brokenCrun('crun "$@"; exit 1')
  const runtime = await open(context, { binary })
  await writeFile(trigger, '')
  const config = configOf(nodes)
  await runtime.create(config).then((sandbox) => sandbox.ended, codeOf)
  expect(await runtime.list()).toEqual([])
  await rm(trigger)
  await using sandbox = await runtime.create(configOf(nodes))
  expect(await endOf(sandbox, ['true'])).toBe(0)
})

test('an OCI runtime that makes no sandboxes leaves no launcher', async (context) => {
  const directory = await nodes.directory(context)
  const { binary, trigger } = await brokenCrun('exit 1')
  await writeFile(trigger, '')
  const probed = await oci({ binary, diskBytes: DISK_BYTES })({ dataDirectory: directory })
  expect(probed).toMatchObject({ available: false, reason: expect.stringContaining('ended with status 1') })
  expect(launcherOfDirectory(directory)).toBeUndefined()
})

test('a pid that is not of the sandbox is not killed, whatever the OCI runtime says', async (context) => {
  await nodes.directory(context)
  const bystander = spawn('sleep', ['100000'], { stdio: 'ignore' })
  onTestFinished(() => void bystander.kill('SIGKILL'))
  const lie = `for word; do [ "$last" = --pid-file ] && file=$word; last=$word; done; printf ${bystander.pid} > "$file"`
  for (const code of [0, 1]) {
    const { binary, trigger } = await brokenCrun(`${lie}; exit ${code}`)
    const runtime = await open(context, { binary })
    await writeFile(trigger, '')
    await expect(runtime.create(configOf(nodes))).rejects.toMatchObject({ code: 'sandbox_failed' })
    expect(await runtime.list()).toEqual([])
    await runtime.close()
  }
  expect(bystander.exitCode ?? bystander.signalCode).toBeNull()
})

test('one node does not reap what is of another on the same host', async (context) => {
  const one = await open(context)
  const two = await open(context)
  await using sandbox = await one.create(configOf(nodes))
  await using other = await two.create(configOf(nodes))
  expect(await two.reap()).toBe(0)
  expect(await two.list()).toEqual([other.id])
  expect(await endOf(sandbox, ['true'])).toBe(0)
  const mapOf = async (each: Sandbox) => await readFile(`/proc/${(await pidsOf(each))[0]}/uid_map`, 'utf8')
  expect(await mapOf(sandbox)).not.toBe(await mapOf(other))
})

test('the agent has no descriptor and no variable of the host', async (context) => {
  const runtime = await open(context)
  await using sandbox = await runtime.create(configOf(nodes))
  const [pid] = await pidsOf(sandbox)
  for (const name of await readdir(`/proc/${pid}/fd`)) {
    const target = await readlink(`/proc/${pid}/fd/${name}`)
    expect(target).toMatch(/^(\/dev\/null|socket:\[\d+\]|anon_inode:\[(eventpoll|signalfd)\])$/)
  }
  expect(await readFile(`/proc/${pid}/environ`, 'latin1')).toMatch(/^PATH=[^\0]*\0(HOME=\/root\0)?$/)
})

test('a disk of the host that is full fails sandboxes, and those after it is free again work', async (context) => {
  await nodes.directory(context)
  const directory = await mkdtemp(join(nodes.base, 'full-'))
  // Not a tmpfs, which has no id-mapped mounts before Linux 6.3.
  const disk = join(nodes.base, 'full.img')
  await writeFile(disk, '')
  await truncate(disk, 192 * SECTOR_BYTES)
  await run('mkfs.ext4', ['-q', '-m', '0', disk])
  await run('mount', ['-o', 'loop', disk, directory])
  // -l: the disk image goes with the last sandbox's mount namespace.
  onTestFinished(() => run('umount', ['-l', directory]).then(() => undefined))
  const runtime = await nodes.open(directory)
  const config = configOf(nodes, { resources: { diskMb: 512 } })
  const sandbox = await runtime.create(config)
  const filler = join(directory, 'filler')
  await writeFile(filler, Buffer.alloc(100 * SECTOR_BYTES, 1))
  const fill =
    'dd if=/dev/urandom of=/tmp/big bs=1048576 count=200; sync; for i in $(seq 1 500); do echo x > /tmp/$i; done; sync'
  await endOf(sandbox, fill).catch(codeOf)
  await runtime.create(configOf(nodes)).then((made) => made.destroy(), codeOf)
  await rm(filler)
  await sandbox.destroy()
  // The first may be the one that finds the disk lost.
  await runtime.create(configOf(nodes)).then((made) => made.destroy(), codeOf)
  await using next = await runtime.create(configOf(nodes))
  expect(await endOf(next, 'echo fine > /tmp/file')).toBe(0)
})
