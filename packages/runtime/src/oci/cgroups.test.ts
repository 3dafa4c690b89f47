import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { type Cgroups, findCgroups, limitsSwap, readStats } from './cgroups.ts'

const V2 = '24 22 0:22 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate'
const V1 = (name: string, path: string): string =>
  `31 25 0:28 / ${path} rw,relatime shared:9 - cgroup cgroup rw,${name}`
const UNIFIED = '30 25 0:27 / /sys/fs/cgroup/unified rw,relatime shared:8 - cgroup2 cgroup2 rw'
const ROOT = '22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw'

test('version 2 alone controls what it says it can, from one place', () => {
  const cgroups = findCgroups(`${ROOT}\n${V2}\n`, () => ['cpuset', 'cpu', 'memory', 'pids'])
  expect(cgroups).toMatchObject({ version: 2, hierarchies: ['/sys/fs/cgroup'] })
  expect(cgroups?.unified).toBeUndefined()
  for (const name of ['cpu', 'cpuacct', 'memory', 'pids'] as const)
    expect(cgroups?.controller(name)).toBe('/sys/fs/cgroup')
})

test('a controller that the kernel was started without is not there', () => {
  const cgroups = findCgroups(`${ROOT}\n${V2}\n`, () => ['cpu', 'pids'])
  expect(cgroups?.controller('memory')).toBeUndefined()
  expect(cgroups?.controller('cpu')).toBe('/sys/fs/cgroup')
})

test('beside version 1, which has the controllers, version 2 is named apart', () => {
  const lines = [ROOT, UNIFIED, V1('cpu,cpuacct', '/sys/fs/cgroup/cpu'), V1('memory', '/sys/fs/cgroup/memory')]
  const cgroups = findCgroups(lines.join('\n'), () => [])
  expect(cgroups).toMatchObject({ version: 'hybrid', unified: '/sys/fs/cgroup/unified' })
  expect(cgroups?.controller('cpuacct')).toBe('/sys/fs/cgroup/cpu')
  expect(cgroups?.controller('memory')).toBe('/sys/fs/cgroup/memory')
  expect(cgroups?.controller('pids')).toBeUndefined()
})

test('version 1 alone, and none at all', () => {
  expect(findCgroups(V1('pids', '/sys/fs/cgroup/pids'))?.version).toBe(1)
  expect(findCgroups(ROOT)).toBeUndefined()
})

/** A folder with the files of a cgroup2 hierarchy. */
const folder = async (): Promise<{ path: string; cgroups: Cgroups }> => {
  const path = await mkdtemp(join(tmpdir(), 'bramble-cgroups-'))
  onTestFinished(() => rm(path, { recursive: true }))
  const controller = (): string => path
  return { path, cgroups: { version: 2, hierarchies: [path], controller } }
}

test('version 2 hands memory down to the cgroup where it looks for the limit of swap', async () => {
  const { path, cgroups } = await folder()
  expect(await limitsSwap(cgroups, '/bramble/node')).toBe(false)
  for (const parent of ['', '/bramble'])
    expect(await readFile(`${path}${parent}/cgroup.subtree_control`, 'utf8')).toBe('+memory')
  await writeFile(`${path}/bramble/node/memory.swap.max`, 'max\n')
  expect(await limitsSwap(cgroups, '/bramble/node')).toBe(true)
})

test('figures of version 2, the peak also where the kernel keeps none', async () => {
  const { path, cgroups } = await folder()
  await mkdir(`${path}/one`)
  await writeFile(`${path}/one/cpu.stat`, 'usage_usec 12500\nuser_usec 10000\nsystem_usec 2500\n')
  await writeFile(`${path}/one/memory.current`, '4096\n')
  await writeFile(`${path}/one/memory.events`, 'low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n')
  await writeFile(`${path}/one/pids.current`, '3\n')
  const stats = { cpuMs: 12.5, memoryBytes: 4096, peakMemoryBytes: 4096, oomKills: 1, processes: 3 }
  expect(await readStats(cgroups, '/one')).toEqual(stats)
  await writeFile(`${path}/one/memory.peak`, '8192\n')
  expect(await readStats(cgroups, '/one')).toEqual({ ...stats, peakMemoryBytes: 8192 })
})
