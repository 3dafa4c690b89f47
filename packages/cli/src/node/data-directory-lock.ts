import { chmodSync, closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { BrambleError } from '@bramble/protocol'

/**
 * Makes this process the only node of a data directory, until the lock is disposed of or the process ends, however it
 * ends. Node has no flock(2); an exclusive transaction of SQLite holds a record lock (fcntl(2)), which the kernel frees
 * with its process, so nothing stale is ever left to be told from a living node.
 *
 * Makes the directory, for its owner only, where it is not there. Throws `conflict` when another process has it.
 */
export const lockDataDirectory = (directory: string): Disposable => {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const ownerFile = join(directory, 'lock.pid')
  const lockFile = join(directory, 'lock.sqlite')
  // Who may open it may hold it.
  closeSync(openSync(lockFile, 'a', 0o600))
  chmodSync(lockFile, 0o600)
  const database = new DatabaseSync(lockFile)
  try {
    database.exec('PRAGMA busy_timeout = 0; BEGIN EXCLUSIVE')
  } catch (cause) {
    database.close()
    const code = (cause as { errcode?: number }).errcode
    if (code !== SQLITE_BUSY) throw cause
    throw new BrambleError('conflict', {
      detail: `another process${owner(ownerFile)} uses ${directory}: stop it, or name another directory`,
      cause,
    })
  }
  writeFileSync(ownerFile, `${process.pid}\n`)
  let held = true
  return {
    [Symbol.dispose]() {
      if (!held) return
      held = false
      database.close()
    },
  }
}

/** sqlite.org/rescode.html */
const SQLITE_BUSY = 5

/** For the message only; the lock itself is the truth. */
const owner = (file: string): string => {
  try {
    return ` (pid ${readFileSync(file, 'utf8').trim()})`
  } catch {
    return ''
  }
}
