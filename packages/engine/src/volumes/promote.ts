import { constants } from 'node:fs'
import { chmod, copyFile, lchown, lstat, mkdir, opendir, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { CacheRule } from './cache-rules.ts'

/** Of one cache of a tenant. One that might grow past it begins anew with what the last sandbox added. */
export const CACHE_BYTES_MAX = 8 * 1024 ** 3
/** What one sandbox may add. */
export const SANDBOX_BYTES_MAX = CACHE_BYTES_MAX / 2
const FILES_MAX = 500_000
const DEPTH_MAX = 32
/** For all users of a sandbox, so that those of another image can add to it too. */
const DIRECTORY_MODE = 0o777
const FILE_MODE = 0o666

export interface Promotion {
  /** What the sandbox wrote: nobody writes there any more. */
  readonly from: string
  /** The next generation, which nobody has mounted yet. */
  readonly to: string
  readonly rule: CacheRule
  /** `from` is a generation, of another node: files lie where tools look for them. Default false. */
  readonly settled?: boolean
}

const isThere = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  )

/**
 * Copies what passes the check and is not there yet, sharing its bytes where the file system can. Everything below `from` was written by a
 * sandbox: only regular files in real directories are looked at, no link is followed, and what overlayfs keeps there for
 * deleted files (character devices) is passed over. Returns how many files were added, and their bytes.
 */
export const promoteFiles = async ({
  from,
  to,
  rule,
  settled = false,
}: Promotion): Promise<{ files: number; bytes: number }> => {
  const added = { files: 0, bytes: 0 }
  let seen = 0

  const take = async (path: string): Promise<void> => {
    const written = settled ? writtenAs(rule, path) : path
    const goal = rule.target?.(written) ?? written
    const [source, target] = [join(from, path), join(to, goal)]
    const { size, uid, gid } = await lstat(source)
    if (!rule.shared.test(written) || added.bytes + size > SANDBOX_BYTES_MAX || (await isThere(target))) return
    await makeDirectories(to, dirname(goal))
    // Whole or not there: a crash leaves a name that no tool looks for, in a generation that nobody uses.
    const fresh = `${target}.bramble-new`
    await copyFile(source, fresh, constants.COPYFILE_FICLONE)
    await chmod(fresh, FILE_MODE)
    if (rule.check !== undefined && !(await rule.check(written, fresh))) {
      await unlink(fresh)
      return
    }
    await lchown(fresh, uid, gid)
    await rename(fresh, target)
    added.files++
    added.bytes += size
  }

  const walk = async (folder: string, depth: number): Promise<void> => {
    for await (const entry of await opendir(join(from, folder))) {
      if (++seen > FILES_MAX) return
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (entry.isDirectory()) {
        if (depth < DEPTH_MAX) await walk(path, depth + 1)
        continue
      }
      if (entry.isFile()) await take(path)
    }
  }
  await walk('', 0)
  return added
}

/** Where a tool wrote what lies at `path` in a generation. */
const writtenAs = ({ target }: CacheRule, path: string): string => {
  const name = basename(path)
  return target?.(name) === path ? name : path
}

const makeDirectories = async (root: string, folder: string): Promise<void> => {
  if (await isThere(join(root, folder))) return
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
