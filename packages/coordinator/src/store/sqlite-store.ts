import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import { BrambleError } from '@bramble/protocol'
import { Kysely, type SqliteDatabase, SqliteDialect } from 'kysely'
import { openQueries } from './queries.ts'
import { rowsOf } from './rows.ts'
import { openSqlite } from './sqlite-append.ts'
import { openSqliteWriter } from './sqlite-writer.ts'
import type { Store } from './store.ts'
import { META_TABLE, schemaSteps, type Tables } from './tables.ts'

export interface SqliteStoreOptions {
  /** The file; its directory is made. */
  readonly path: string
}

const migrate = (database: DatabaseSync, path: string): void => {
  database.exec('begin immediate')
  try {
    for (const statement of META_TABLE) database.exec(statement)
    const version = database.prepare("select value from meta where name = 'schema'").get()
    for (const statement of schemaSteps('sqlite', Number(version?.value))) database.exec(statement)
    database.exec('commit')
  } catch (error) {
    database.exec('rollback')
    throw new BrambleError('conflict', { detail: `${path} cannot be used: ${(error as Error).message}`, cause: error })
  }
}

const dialectOver = (database: DatabaseSync): SqliteDialect => {
  const adapted: SqliteDatabase = {
    close: () => database.close(),
    prepare(text) {
      const statement = database.prepare(text)
      const bind = (values: readonly unknown[]) => values as readonly SQLInputValue[]
      return {
        reader: statement.columns().length > 0,
        all: (values) => statement.all(...bind(values)),
        run: (values) => statement.run(...bind(values)),
        iterate: (values) => statement.iterate(...bind(values)),
      }
    },
  }
  return new SqliteDialect({ database: adapted })
}

/** A process that holds the lock does not say when it ends. */
const LOOK_AGAIN_MS = 1_000

/**
 * Who writes is who holds an exclusive lock on a file beside the database: the kernel frees it with the process, so that one
 * that follows a crash need not wait (decision 13).
 */
const openLock = (path: string) => {
  let held: DatabaseSync | undefined
  return {
    take(): boolean {
      const lock = new DatabaseSync(path, { timeout: 0 })
      try {
        lock.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT')
        held = lock
        return true
      } catch {
        lock.close()
        return false
      }
    },
    held: () => held !== undefined,
    free() {
      held?.close()
      held = undefined
    },
  }
}

/** Opens the file (WAL, synchronous=FULL), for one process; throws `conflict` for tables of a later Bramble. */
export const sqliteStore = async ({ path }: SqliteStoreOptions): Promise<Store> => {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  // What jobs said is in there: for the owner only, and so are the files that SQLite puts beside it.
  closeSync(openSync(path, 'a', 0o600))
  chmodSync(path, 0o600)
  const database = openSqlite(path)
  try {
    migrate(database, path)
  } catch (error) {
    database.close()
    throw error
  }
  const db = new Kysely<Tables>({ dialect: dialectOver(database) })
  const writer = openSqliteWriter(path)
  const lock = openLock(`${path}-writer`)
  let closing: Promise<void> | undefined

  const writerRow = () => {
    const row = database.prepare('select epoch, name, url from writer').get()
    return { epoch: Number(row?.epoch), name: String(row?.name), url: String(row?.url) }
  }
  const close = (): Promise<void> => {
    closing ??= (async () => {
      await writer.close()
      lock.free()
      await db.destroy()
      if (database.isOpen) database.close()
    })()
    return closing
  }

  return {
    name: 'sqlite',
    async acquire({ name, url }) {
      if (lock.held() || !lock.take()) {
        const present = writerRow()
        return { held: false, name: present.name, url: present.url, leftMs: LOOK_AGAIN_MS }
      }
      database.prepare('update writer set epoch = epoch + 1, name = ?, url = ?').run(name, url)
      return { held: true, epoch: writerRow().epoch }
    },
    // It lasts as long as the process: nothing is written for it, which would wait for the thread that writes.
    renew: async (epoch) => closing === undefined && lock.held() && writerRow().epoch === epoch,
    async release(epoch) {
      if (!lock.held() || writerRow().epoch !== epoch) return
      database.prepare('update writer set epoch = epoch + 1').run()
      lock.free()
    },
    // Nobody else writes in this process, and nobody waits for it in another.
    watchWriter: () => async () => {},
    async writer() {
      const free = !lock.held() && lock.take()
      if (free) lock.free()
      const { name, url } = writerRow()
      return free ? undefined : { name, url }
    },
    async append(epoch, batch) {
      if (await writer.append(epoch, rowsOf(batch))) return
      throw new BrambleError('not_leader', { detail: `the epoch ${epoch} of ${path} has ended` })
    },
    ...openQueries(db),
    close,
    [Symbol.asyncDispose]: close,
  }
}
