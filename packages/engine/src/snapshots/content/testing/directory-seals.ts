import { execFile } from 'node:child_process'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { BrambleError } from '@bramble/protocol'
import { createLayerFiles, type SealStore } from '@bramble/runtime'

const run = promisify(execFile)

export interface DirectorySeals extends SealStore, AsyncDisposable {
  /** Where a sandbox would write: seals are taken of it. */
  readonly layer: string
  /** Overlayfs's own folder beside it. */
  readonly work: string
  /** As `Sandbox.seal` does it: a read-only snapshot on btrfs, a copy elsewhere. */
  take(name: string): Promise<void>
  /** Where a seal's files are. */
  directory(name: string): string
}

/** Seals of files in a directory, as the `oci` driver has them, without a launcher. */
export const directorySeals = async (base: string, system: 'btrfs' | 'other'): Promise<DirectorySeals> => {
  const files = createLayerFiles()
  const subvolume = join(base, 'layer')
  const [layer, work] = [join(subvolume, 'upper'), join(subvolume, 'work')]
  const seals = join(base, 'seals')
  const place = (name: string): string => join(seals, name)
  const directory = (name: string): string => join(place(name), 'upper')
  const isThere = async (name: string): Promise<boolean> => (await readdir(seals)).includes(name)
  const find = async (name: string): Promise<string> => {
    if (await isThere(name)) return directory(name)
    throw new BrambleError('not_found', { detail: `there is no seal ${name}` })
  }
  const remove = async (path: string): Promise<void> => {
    if (system === 'btrfs') await run('btrfs', ['property', 'set', '-ts', path, 'ro', 'false']).catch(() => {})
    await rm(path, { recursive: true, force: true })
  }
  const make = async (path: string): Promise<void> => {
    if (system === 'btrfs') await run('btrfs', ['subvolume', 'create', path])
    else await mkdir(path)
    await mkdir(join(path, 'upper'))
  }
  await make(subvolume)
  await mkdir(work)
  await mkdir(seals)
  return {
    layer,
    work,
    directory,
    take: async (name) => {
      if (system === 'btrfs') await run('btrfs', ['subvolume', 'snapshot', '-r', subvolume, place(name)])
      else await run('cp', ['-a', subvolume, place(name)])
    },
    list: async () => (await readdir(seals)).map((name) => ({ name, memory: false })),
    remove: async (name) => await remove(place(name)),
    usedBytes: async () => 0,
    sync: async (name) => void (await find(name)),
    async *entries(name, options) {
      yield* files.entries(await find(name), options)
    },
    async *read(name, path, options) {
      yield* files.read(directory(name), path, options)
    },
    memory: async () => undefined,
    readMemory: () => {
      throw new BrambleError('file_not_found', { detail: 'there is no memory here' })
    },
    write: async (name, source, options) => {
      if (await isThere(name)) throw new BrambleError('conflict', { detail: `there is a seal ${name}` })
      const making = join(base, `making-${name}`)
      await make(making)
      try {
        await files.write(join(making, 'upper'), source, options)
        await rename(making, place(name))
        if (system === 'btrfs') await run('btrfs', ['property', 'set', '-ts', place(name), 'ro', 'true'])
      } catch (error) {
        await remove(making)
        throw error
      }
    },
    [Symbol.asyncDispose]: () => files.close(),
  }
}
