import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newId, type SandboxId } from '@bramble/protocol'
import { afterAll, beforeAll, expect, onTestFinished, type TestContext, test } from 'vitest'
import { skip } from '../testing/subject.ts'
import { openNetworks } from './open-networks.ts'
import { openWorld, type World } from './testing/world.ts'

let base: string
let world: World | undefined
let reason: string | undefined

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'bramble-leftovers-'))
  const networks = await openNetworks({ directory: base })
  reason = networks.reason
  await networks.close()
  if (reason === undefined) world = await openWorld()
  else if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(reason)
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  await rm(base, { recursive: true, force: true })
})

/** A node that takes networks for sandboxes that live on, says so, and is killed. Gives the links that outlive it. */
const crash = async (context: TestContext, directory: string, sandboxes: readonly SandboxId[], policy: unknown) => {
  if (reason !== undefined) skip(context, reason)
  const script = `import { spawn } from 'node:child_process'
    import { openNetworks } from ${JSON.stringify(new URL('open-networks.ts', import.meta.url).href)}
    const networks = await openNetworks({ directory: process.argv[1], readySlots: 2 })
    for (const id of process.argv.slice(2)) {
      const network = await networks.take(id, ${JSON.stringify(policy)})
      const argv = ['--user=' + network.userNamespacePath, '--net=' + network.networkNamespacePath, '--', process.execPath, '-e', ${JSON.stringify(CLIENT)}]
      const client = spawn('nsenter', argv, { stdio: ['ignore', 'pipe', 'ignore'], detached: true })
      await new Promise((resolve) => client.stdout.once('data', resolve))
      console.log(client.pid)
    }
    console.log('ready')`
  const node = spawn(process.execPath, ['--input-type=module', '-e', script, directory, ...sandboxes], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let said = ''
  for await (const chunk of node.stdout) {
    said += chunk
    if (said.includes('ready')) break
  }
  const pids = said.split('\n').slice(0, sandboxes.length).map(Number)
  onTestFinished(() => {
    for (const pid of pids)
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has ended.
      }
  })
  node.kill('SIGKILL')
  await once(node, 'exit')
  return pids
}

/** A sandbox: says that it is there, and stays. */
const CLIENT = `process.stdout.on('error', () => {}); process.stdout.write('up'); setInterval(() => {}, 100000)`

const linksOf = async (directory: string): Promise<string[]> => {
  const prefix = `br${createHash('sha256').update(directory).digest('hex').slice(0, 7)}-`
  return (await readdir('/sys/class/net')).filter((name) => name.startsWith(prefix)).sort()
}

/** Tries the server from the namespaces of a process. */
const reaches = (pid: number): boolean => {
  const argv = ['-t', String(pid), '-U', '-n', 'busybox', 'nc', '-w', '1', world?.publicOne ?? '', String(world?.port)]
  try {
    return String(execFileSync('nsenter', argv, { input: '', stdio: ['pipe', 'pipe', 'ignore'] })).includes('tcp from')
  } catch {
    return false
  }
}

test('what a killed node leaves is taken over, or removed', async (context) => {
  const directory = await mkdtemp(join(base, 'node-'))
  const [kept, lost] = [newId('sandbox'), newId('sandbox')]
  const [keptPid = 0, lostPid = 0] = await crash(context, directory, [kept, lost], 'egress')
  // The rules hold without their node.
  expect(reaches(keptPid)).toBe(true)
  await using networks = await openNetworks({ directory, readySlots: 2 })
  expect(networks.reason).toBeUndefined()
  expect(reaches(keptPid)).toBe(true)
  const before = await linksOf(directory)
  expect(before.length).toBeGreaterThanOrEqual(3)
  await expect(networks.attach(newId('sandbox'), 'egress')).rejects.toMatchObject({ code: 'not_found' })
  const network = await networks.attach(kept, { allow: [world?.publicOne ?? ''] })
  expect((await network.stats()).ingressBytes).toBeGreaterThan(0)
  expect(await networks.reap(new Set([kept]))).toBe(1)
  expect(reaches(keptPid)).toBe(true)
  expect(reaches(lostPid)).toBe(false)
  await network.setPolicy('none')
  expect(reaches(keptPid)).toBe(false)
  // Nobody is given what is in use.
  const fresh = await Promise.all(Array.from({ length: 4 }, () => networks.take(newId('sandbox'), 'egress')))
  expect(new Set([...fresh, network].map(({ address }) => address)).size).toBe(5)
  expect(new Set([...fresh, network].map(({ uidBase }) => uidBase)).size).toBe(5)
  await Promise.all([...fresh, network].map((each) => each.release()))
  expect(reaches(keptPid)).toBe(false)
  await networks.close()
  expect(await linksOf(directory)).toEqual([])
})

test('networks that are in use when the node ends in order live on as well', async (context) => {
  if (reason !== undefined) skip(context, reason)
  const directory = await mkdtemp(join(base, 'node-'))
  const sandbox = newId('sandbox')
  const first = await openNetworks({ directory })
  const network = await first.take(sandbox, 'egress')
  const argv = [`--user=${network.userNamespacePath}`, `--net=${network.networkNamespacePath}`, 'sleep', '1000']
  const holder = spawn('nsenter', argv, { stdio: 'ignore' })
  onTestFinished(() => void holder.kill('SIGKILL'))
  await once(holder, 'spawn')
  while (!reaches(holder.pid ?? 0));
  await first.close()
  expect(reaches(holder.pid ?? 0)).toBe(true)
  await using second = await openNetworks({ directory })
  const again = await second.attach(sandbox, 'egress')
  expect(again.address).toBe(network.address)
  expect(await second.reap(new Set([sandbox]))).toBe(0)
  expect(reaches(holder.pid ?? 0)).toBe(true)
  await again.release()
})

test('two nodes of one host do not touch what is of the other', async (context) => {
  if (reason !== undefined) skip(context, reason)
  const [one, two] = [await mkdtemp(join(base, 'node-')), await mkdtemp(join(base, 'node-'))]
  await using first = await openNetworks({ directory: one })
  await using network = await first.take(newId('sandbox'), 'egress')
  await using second = await openNetworks({ directory: two })
  await using other = await second.take(newId('sandbox'), 'egress')
  expect(await second.reap(new Set())).toBe(0)
  expect(network.resolver).not.toBe(other.resolver)
  expect(network.uidBase).not.toBe(other.uidBase)
  const links = await linksOf(one)
  await other.release()
  await second.close()
  expect(await linksOf(one)).toEqual(expect.arrayContaining(links))
  expect(await network.stats()).toEqual({ egressBytes: 0, ingressBytes: 0 })
})
