import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { grantedCpus } from './cpu-grant.ts'
import { gpusIn } from './gpus.ts'
import { machineFingerprint } from './machine.ts'
import { instructionSet } from './platform.ts'

const scratch = async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-report-'))
  return { directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) }
}

describe('processors that are granted', () => {
  const tree = async (directory: string, files: Record<string, string>, membership: string) => {
    for (const [path, text] of Object.entries(files)) {
      await mkdir(join(directory, 'cg', path, '..'), { recursive: true })
      await writeFile(join(directory, 'cg', path), text)
    }
    const membershipFile = join(directory, 'membership')
    await writeFile(membershipFile, membership)
    return grantedCpus(join(directory, 'cg'), { membershipFile, processors: 8 })
  }

  test('are the least of what any cgroup above allows (version 2)', async () => {
    await using at = await scratch()
    const files = { 'cpu.max': 'max 100000\n', 'a/cpu.max': '150000 100000\n', 'a/b/cpu.max': '400000 100000\n' }
    expect(await tree(at.directory, files, '0::/a/b\n')).toBe(1.5)
  })

  test('are those of a quota of version 1', async () => {
    await using at = await scratch()
    const files = { 'cpu/a/cpu.cfs_quota_us': '50000\n', 'cpu/a/cpu.cfs_period_us': '100000\n' }
    expect(await tree(at.directory, files, '3:cpu,cpuacct:/a\n0::/\n')).toBe(0.5)
  })

  test('are all where nothing says otherwise', async () => {
    await using at = await scratch()
    expect(await tree(at.directory, { 'a/cpu.max': 'max 100000\n' }, '0::/a\n')).toBe(8)
    expect(await tree(at.directory, { 'cpu/a/cpu.cfs_quota_us': '-1\n' }, '3:cpu:/a\n')).toBe(8)
  })
})

test('a machine is known by its id, which does not show', async () => {
  await using at = await scratch()
  const [one, zeros] = [join(at.directory, 'one'), join(at.directory, 'zeros')]
  await writeFile(one, 'A1B2C3D4E5F60718293a4b5c6d7e8f90\n')
  await writeFile(zeros, `${'0'.repeat(32)}\n`)
  const fingerprint = machineFingerprint([one])
  expect(fingerprint).toMatch(/^[0-9a-f]{40}$/)
  expect(fingerprint).not.toContain('a1b2c3d4')
  expect(machineFingerprint([join(at.directory, 'none'), zeros, one])).toBe(fingerprint)
  expect(machineFingerprint([zeros])).not.toBe(fingerprint)
})

test('instruction sets are told by their levels', () => {
  const flags = (...words: string[]) => `flags\t\t: fpu ${words.join(' ')}\n`
  const v2 = ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3']
  const v3 = [...v2, 'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'movbe', 'xsave']
  expect(instructionSet(flags(), 'x64')).toBe('x86-64-v1')
  expect(instructionSet(flags(...v2), 'x64')).toBe('x86-64-v2')
  expect(instructionSet(flags(...v3), 'x64')).toBe('x86-64-v3')
  expect(instructionSet('', 'arm64')).toBe('arm64')
})

test('GPUs are read from what their tool says', () => {
  expect(gpusIn('NVIDIA A100-SXM4-40GB, 40960\nTesla T4, 15360\n')).toEqual([
    { model: 'NVIDIA A100-SXM4-40GB', memoryMb: 40_960 },
    { model: 'Tesla T4', memoryMb: 15_360 },
  ])
  expect(gpusIn('No devices were found\n')).toEqual([])
})
