import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { BrambleError } from '@bramble/protocol'
import { Kysely } from 'kysely'
import { type Migration, migrate } from './migrate.ts'
import { nodeSqliteDialect } from './node-sqlite.ts'

export interface DatabaseOptions {
  /** The file; its directory is made. */
  readonly path: string
  /** Whose tables these are: several owners may share a file, each with migrations of its own. */
  readonly owner: string
  readonly migrations: readonly Migration[]
  /**
   * `full`: what was committed survives a power failure. `normal`: it survives the death of the process, and the file is
   * whole in any case; commits do not wait for the disk. Default `full`.
   */
  readonly durability?: 'full' | 'normal'
  /** Nobody else may open the file meanwhile, in this process or another. Default false. */
  readonly exclusive?: boolean
}

const SQLITE_BUSY = 5

const isBusy = (error: unknown): boolean =>
  error instanceof Error &&
  'errcode' in error &&
  typeof error.errcode === 'number' &&
  (error.errcode & 0xff) === SQLITE_BUSY

/**
 * Opens a SQLite file (WAL) and brings its tables up to date. `destroy` of the answer closes it. The file opens after a
 * crash or `kill -9` at any moment, without what was not committed. Throws `conflict` when someone holds it exclusively.
 */
export const openDatabase = async <Tables>(options: DatabaseOptions): Promise<Kysely<Tables>> => {
  mkdirSync(dirname(options.path), { recursive: true, mode: 0o700 })
  // Outputs and hashes of keys are in there: for the owner only, and so are the files that SQLite puts beside it.
  closeSync(openSync(options.path, 'a', 0o600))
  chmodSync(options.path, 0o600)
  const database = new DatabaseSync(options.path, { timeout: options.exclusive ? 0 : 5000 })
  try {
    if (options.exclusive) database.exec('PRAGMA locking_mode = EXCLUSIVE')
    database.exec(
      `PRAGMA journal_mode = WAL; PRAGMA synchronous = ${options.durability === 'normal' ? 'NORMAL' : 'FULL'}`,
    )
    // In exclusive mode the lock is taken by the first write and then held.
    database.exec('BEGIN IMMEDIATE; COMMIT')
    const kysely = new Kysely<Tables>({ dialect: nodeSqliteDialect(database) })
    await migrate(kysely, options.owner, options.migrations)
    return kysely
  } catch (error) {
    database.close()
    if (!isBusy(error)) throw error
    throw new BrambleError('conflict', { detail: `another process uses ${options.path}`, cause: error })
  }
}
