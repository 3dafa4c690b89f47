import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { Cgroups } from './cgroups.ts'
import { findFreezer } from './freezer.ts'

/** A folder with the files of a cgroup, of version 2 or 1: what a kernel would answer is written there beforehand. */
const folder = async (version: 1 | 2) => {
  const path = await mkdtemp(join(tmpdir(), 'bramble-freezer-'))
  onTestFinished(() => rm(path, { recursive: true }))
  await mkdir(`${path}/box`)
  const cgroups: Cgroups = { version, hierarchies: [path], controller: () => path }
  const freezer = findFreezer(cgroups)
  if (!freezer) throw new Error('no freezer')
  const file = (name: string) => `${path}/box/${name}`
  return { freezer, file }
}

test('version 2 is frozen when its events say so', async () => {
  const { freezer, file } = await folder(2)
  await writeFile(file('cgroup.events'), 'populated 1\nfrozen 1\n')
  await freezer.freeze('/box')
  expect(await readFile(file('cgroup.freeze'), 'utf8')).toBe('1')
  expect(await freezer.isFrozen('/box')).toBe(true)
  await writeFile(file('cgroup.events'), 'populated 1\nfrozen 0\n')
  await freezer.thaw('/box')
  expect(await readFile(file('cgroup.freeze'), 'utf8')).toBe('0')
  expect(await freezer.isFrozen('/box')).toBe(false)
})

test('what cannot be frozen goes on, and that is an error', async () => {
  const { freezer, file } = await folder(2)
  await writeFile(file('cgroup.events'), 'populated 1\nfrozen 0\n')
  await expect(freezer.freeze('/box')).rejects.toMatchObject({ code: 'sandbox_failed' })
  expect(await readFile(file('cgroup.freeze'), 'utf8')).toBe('0')
  await expect(freezer.freeze('/gone')).rejects.toMatchObject({ code: 'sandbox_failed' })
  await expect(freezer.isFrozen('/gone')).rejects.toMatchObject({ code: 'sandbox_failed' })
})

test('version 1 has one file for both; a host without a freezer has none', async () => {
  const { freezer, file } = await folder(1)
  await freezer.freeze('/box')
  expect(await readFile(file('freezer.state'), 'utf8')).toBe('FROZEN')
  await freezer.thaw('/box')
  expect(await readFile(file('freezer.state'), 'utf8')).toBe('THAWED')
  expect(findFreezer({ version: 1, hierarchies: [], controller: () => undefined })).toBeUndefined()
})
