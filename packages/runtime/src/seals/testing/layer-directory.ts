import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { onTestFinished, type TestContext } from 'vitest'
import { skip } from '../../testing/subject.ts'
import type { LayerSource } from '../layer-files.ts'
import type { LayerEntry } from '../seals.ts'

const run = promisify(execFile)
const DISK_BYTES = 2 * 1024 ** 3

export type FileSystem = 'tmpfs' | 'btrfs' | 'ext4'
export const FILE_SYSTEMS: readonly FileSystem[] = ['tmpfs', 'btrfs', 'ext4']

/** A directory of the test's own, on a file system of its own; both go when it ends. */
export const layerDirectory = async (context: TestContext, system: FileSystem = 'tmpfs'): Promise<string> => {
  if (process.getuid?.() !== 0) skip(context, 'layers have owners and devices, which only root can make')
  const base = await mkdtemp(join(tmpdir(), 'bramble-layer-'))
  const directory = join(base, 'files')
  await mkdir(directory)
  onTestFinished(async () => {
    await run('umount', ['-l', directory]).catch(() => {})
    await rm(base, { recursive: true, force: true })
  })
  if (system === 'tmpfs') await run('mount', ['-t', 'tmpfs', 'tmpfs', directory])
  else {
    const image = join(base, 'disk.img')
    await writeFile(image, '')
    await truncate(image, DISK_BYTES)
    await run(`mkfs.${system}`, ['-q', image])
    await run('mount', ['-o', 'loop', image, directory])
  }
  return directory
}

/** A file of the layer with its bytes. */
export type Made = LayerEntry & { readonly bytes?: Uint8Array }

export const attributes = { mode: 0o644, uid: 0, gid: 0, modifiedNs: 1_700_000_000_123_456_789n }

export const sourceOf = (entries: readonly Made[], diskBytes = 1e9): LayerSource => ({
  entries: entries.map(({ bytes: _, ...entry }) => entry as LayerEntry),
  read: async function* (path) {
    const bytes = entries.find((entry) => entry.path === path)?.bytes
    if (bytes) yield bytes
  },
  diskBytes,
})

export const file = (path: string, text = '', more: Partial<typeof attributes> = {}): Made => ({
  type: 'file',
  path,
  ...attributes,
  ...more,
  sizeBytes: text.length,
  bytes: Buffer.from(text, 'latin1'),
})

export const folder = (path: string, opaque = false): Made => ({
  type: 'directory',
  path,
  ...attributes,
  mode: 0o755,
  opaque,
})

export const symlink = (path: string, target: string): Made => ({
  type: 'symlink',
  path,
  ...attributes,
  mode: 0o777,
  target,
})

export const withoutVersion = (entry: LayerEntry): LayerEntry => {
  const { version: _, ...rest } = { version: undefined, ...entry }
  return rest as LayerEntry
}

export const all = async <T>(source: AsyncIterable<T>): Promise<T[]> => {
  const items: T[] = []
  for await (const item of source) items.push(item)
  return items
}
