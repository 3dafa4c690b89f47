import { constants } from 'node:fs'
import { lstat, open, readdir, readlink } from 'node:fs/promises'
import { LIMITS } from '@bramble/protocol'
import type { ImageFile } from '../merge/merge.ts'
import { listingOf, parentOf } from './content/image-listing.ts'

/** What an image has at a path: of names alone, through no symbolic link. */
export const imageFilesOf = (rootfs: string): ((path: Buffer) => Promise<ImageFile | undefined>) => {
  const listing = listingOf(rootfs)
  return async (path) => {
    const parent = parentOf(path.toString('latin1'))
    if ((await listing.directory(parent)) === undefined) return undefined
    const place = Buffer.concat([Buffer.from(`${rootfs}/`), path])
    const stats = await lstat(place, { bigint: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
      throw error
    })
    if (!stats) return undefined
    return {
      type: stats.isFile()
        ? 'file'
        : stats.isDirectory()
          ? 'directory'
          : stats.isSymbolicLink()
            ? 'symlink'
            : stats.isFIFO()
              ? 'fifo'
              : 'other',
      mode: Number(stats.mode) & 0o7777,
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      modifiedNs: String(stats.mtimeNs),
      sizeBytes: Number(stats.size),
      ...(stats.isSymbolicLink() && { target: await readlink(place, { encoding: 'buffer' }) }),
      read: () => readBounded(place),
      names: () => readdir(place, { encoding: 'buffer' }),
    }
  }
}

const readBounded = async (place: Buffer): Promise<Uint8Array> => {
  const file = await open(place, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const { size } = await file.stat()
    if (size > LIMITS.maxMergeTextBytes.value) throw new RangeError(`${size} bytes are too many to be merged by lines`)
    return await file.readFile()
  } finally {
    await file.close()
  }
}
