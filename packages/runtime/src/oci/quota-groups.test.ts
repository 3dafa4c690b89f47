import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { configOf, skip } from '../testing/subject.ts'
import { makeTestImage } from '../testing/test-image.ts'
import { oci } from './oci.ts'

const BTRFS = '/sys/fs/btrfs'

/** The quota groups of the disk image below `directory`. */
const quotaGroups = async (directory: string): Promise<string[]> => {
  for (const id of await readdir(BTRFS)) {
    for (const device of await readdir(`${BTRFS}/${id}/devices`).catch(() => [])) {
      const file = await readFile(`/sys/block/${device}/loop/backing_file`, 'utf8').catch(() => '')
      if (!file.startsWith(`${directory}/`)) continue
      return (await readdir(`${BTRFS}/${id}/qgroups`)).filter((name) => name.startsWith('0_'))
    }
  }
  throw new Error('the disk is not a btrfs on a loop device')
}

test('a destroyed sandbox leaves no quota group where the kernel keeps them until they are removed', async (context) => {
  if (existsSync(`${BTRFS}/features/simple_quota`)) skip(context, 'this kernel removes them by itself, some time later')
  const directory = await mkdtemp(join(tmpdir(), 'bramble-quota-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  const probed = await oci()({ dataDirectory: directory })
  if (!probed.available) return skip(context, probed.reason)
  await using runtime = probed.runtime
  await using image = await makeTestImage()
  const known = new Set(await quotaGroups(directory))
  const left: string[] = []
  // How soon the kernel allows it differs: with the first removal, or when its cleaner has been there, which goes round
  // after a commit, and each sandbox brings one about.
  do {
    await using sandbox = await runtime.create(configOf({ image }))
    left.push(...(await quotaGroups(directory)).filter((group) => !known.has(group)))
    for (const group of left) known.add(group)
    expect(left.length).toBeGreaterThan(0)
    await sandbox.destroy()
  } while ((await quotaGroups(directory)).includes(left[0] ?? ''))
})
