import { constants } from 'node:fs'
import { chmod, copyFile, lchown, lstat, mkdir, opendir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { Check } from './cache-rules.ts'

/** Of one cache of a tenant. One that would grow past it begins anew with what the last sandbox added. */
export const CACHE_BYTES_MAX = 8 * 1024 ** 3
const FILES_MAX = 500_000
const DEPTH_MAX = 32
/** Of any of the sandbox's users, so that those of another image can add to it too. */
const DIRECTORY_MODE = 0o777
const FILE_MODE = 0o644

export interface Promotion {
  /** What the sandbox wrote: nobody writes there any more. */
  readonly from: string
  /** The next generation, which nobody has mounted yet. */
  readonly to: string
  readonly check: Check
}

const sizeOf = async (path: string): Promise<number | undefined> => {
  try {
    const found = await lstat(path)
    return found.isFile() ? found.size : undefined
  } catch {
    return undefined
  }
}

/**
 * Copies what passes the check, sharing its bytes where the file system can. Everything below `from` was written by a
 * sandbox: only regular files in real directories are looked at, no link is followed, and what overlayfs keeps there for
 * deleted files (character devices) is passed over. Returns how many files were added, and their bytes.
 */
export const promoteFiles = async ({ from, to, check }: Promotion): Promise<{ files: number; bytes: number }> => {
  const added = { files: 0, bytes: 0 }
  let seen = 0

  const take = async (path: string): Promise<void> => {
    const [source, target] = [join(from, path), join(to, path)]
    const present = (await sizeOf(target)) === undefined ? undefined : target
    const { size, uid, gid } = await lstat(source)
    if (added.bytes + size > CACHE_BYTES_MAX || !(await check(path, source, present))) return
    // Whole or not there: a crash leaves a name that no tool looks for, in a generation that nobody uses.
    const fresh = `${target}.bramble-new`
    await copyFile(source, fresh, constants.COPYFILE_FICLONE)
    await chmod(fresh, FILE_MODE)
    await lchown(fresh, uid, gid)
    await rename(fresh, target)
    added.files++
    added.bytes += size
  }

  const walk = async (folder: string, depth: number): Promise<void> => {
    let made = false
    for await (const entry of await opendir(join(from, folder))) {
      if (++seen > FILES_MAX) return
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (entry.isDirectory()) {
        if (depth < DEPTH_MAX) await walk(path, depth + 1)
        continue
      }
      if (!entry.isFile()) continue
      if (!made && folder !== '') await makeDirectories(to, folder)
      made = true
      await take(path)
    }
  }
  await walk('', 0)
  return added
}

const makeDirectories = async (root: string, folder: string): Promise<void> => {
  let path = root
  for (const name of folder.split('/')) {
    path = join(path, name)
    try {
      await mkdir(path)
      await chmod(path, DIRECTORY_MODE)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      // In a generation there are directories and files of ours only; a file in the way ends it here.
    }
  }
}
