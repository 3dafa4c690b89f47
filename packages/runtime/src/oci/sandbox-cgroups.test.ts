import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { Cgroups } from './cgroups.ts'
import { makeCgroups } from './sandbox-cgroups.ts'

const MIB = 1024 * 1024
const RESOURCES = { cpus: 0.5, memoryMb: 128, diskMb: 64, pids: 100 }

/** Plain folders in the place of the kernel's: what is written there can be read. */
const foldersOf = async (names: readonly string[], version: Cgroups['version']): Promise<Cgroups> => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-cgroups-'))
  onTestFinished(() => rm(base, { recursive: true }))
  const hierarchies = names.map((name) => join(base, name))
  for (const path of hierarchies) await mkdir(join(path, 'node'), { recursive: true })
  const controller = (name: string) => hierarchies.find((path) => version === 2 || path.split(/[/,]/).includes(name))
  return { version, hierarchies, controller }
}

const read = async (cgroups: Cgroups, name: Parameters<Cgroups['controller']>[0], file: string): Promise<string> =>
  await readFile(`${cgroups.controller(name)}/node/box/${file}`, 'utf8')

test('with version 2, all limits are files of one cgroup', async () => {
  const cgroups = await foldersOf(['unified'], 2)
  const made = await makeCgroups(cgroups, '/node/box', RESOURCES, true)
  expect(await read(cgroups, 'cpu', 'cpu.max')).toBe('50000 100000')
  expect(Number(await read(cgroups, 'memory', 'memory.max'))).toBeGreaterThan(128 * MIB)
  expect(Number(await read(cgroups, 'pids', 'pids.max'))).toBeGreaterThan(100)
  await made.settle()
  expect(await read(cgroups, 'memory', 'memory.max')).toBe(String(128 * MIB))
  expect(await read(cgroups, 'memory', 'memory.swap.max')).toBe('0')
  expect(await read(cgroups, 'pids', 'pids.max')).toBe('100')
})

test('with version 1, each controller has its own, and a cpuset is as the one above', async () => {
  const cgroups = await foldersOf(['cpu,cpuacct', 'memory', 'pids', 'cpuset', 'devices'], 1)
  const cpuset = cgroups.hierarchies[3]
  for (const file of ['cpuset.cpus', 'cpuset.mems']) await writeFile(`${cpuset}/node/${file}`, '0-1')
  const made = await makeCgroups(cgroups, '/node/box', RESOURCES, false)
  await made.settle()
  expect(await readFile(`${cpuset}/node/box/cpuset.cpus`, 'utf8')).toBe('0-1')
  expect(await read(cgroups, 'cpu', 'cpu.cfs_quota_us')).toBe('50000')
  expect(await read(cgroups, 'memory', 'memory.limit_in_bytes')).toBe(String(128 * MIB))
  expect(await readdir(`${cgroups.controller('memory')}/node/box`)).toEqual(['memory.limit_in_bytes'])
})

test('what fails leaves none', async () => {
  const cgroups = await foldersOf(['memory', 'cpuset', 'pids'], 1)
  // There is no cpuset above.
  await expect(makeCgroups(cgroups, '/node/box', RESOURCES, false)).rejects.toMatchObject({ code: 'ENOENT' })
  for (const path of cgroups.hierarchies) expect(await readdir(join(path, 'node'))).toEqual([])
})
