import type { Stats } from 'node:fs'
import { lstat, readdir } from 'node:fs/promises'
import type { BytePath } from '@bramble/runtime'

const MAX_KNOWN_DIRECTORIES = 100_000

/** What an image has, by paths through which no symbolic link leads: a layer hides names, not where links point. */
export interface ImageListing {
  /** Names in a directory; undefined where the image has none. */
  names(path: BytePath): Promise<BytePath[] | undefined>
  /** Undefined: the image has no such directory. */
  directory(path: BytePath): Promise<DirectoryAttributes | undefined>
}

export interface DirectoryAttributes {
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly modifiedNs: bigint
}

/** An image as it lies on this host, unpacked and never written. */
export const listingOf = (rootfs: string): ImageListing => {
  const known = new Map<BytePath, boolean>()
  const pathOf = (path: BytePath): Buffer => Buffer.concat([Buffer.from(`${rootfs}/`), Buffer.from(path, 'latin1')])
  const isDirectory = async (path: BytePath): Promise<boolean> => {
    if (path === '') return true
    const before = known.get(path)
    if (before !== undefined) return before
    const is = (await isDirectory(parentOf(path))) && (await statOf(pathOf(path)))?.isDirectory() === true
    if (known.size >= MAX_KNOWN_DIRECTORIES) known.clear()
    known.set(path, is)
    return is
  }
  return {
    names: async (path) => {
      if (!(await isDirectory(path))) return undefined
      const names = await readdir(pathOf(path), { encoding: 'buffer' })
      return names.map((name) => name.toString('latin1'))
    },
    directory: async (path) => {
      if (!(await isDirectory(path))) return undefined
      const { mode, uid, gid, mtimeNs } = await lstat(pathOf(path), { bigint: true })
      return { mode: Number(mode) & 0o7777, uid: Number(uid), gid: Number(gid), modifiedNs: mtimeNs }
    },
  }
}

/** The directory that a path is in; empty for the root. */
export const parentOf = (path: BytePath): BytePath => path.slice(0, Math.max(0, path.lastIndexOf('/')))

const statOf = async (path: Buffer): Promise<Stats | undefined> => {
  try {
    return await lstat(path)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw error
  }
}
