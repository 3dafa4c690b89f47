import { BrambleError } from '@bramble/protocol'
import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import { openPostgresAppender } from './postgres-appender.ts'
import { brambleError, clientConfig, whileAway } from './postgres-connection.ts'
import { CHANNEL, watchChannel } from './postgres-watch.ts'
import { openQueries, type Queries } from './queries.ts'
import { rowsOf } from './rows.ts'
import type { Store } from './store.ts'
import { META_TABLE, schemaSteps, type Tables } from './tables.ts'

export interface PostgresStoreOptions {
  /** `postgresql://…`; by a pooler only where it keeps sessions (PgBouncer: `session`). */
  readonly url: string
  /** Connections for everything but appends, which have one of their own. Default 4. */
  readonly poolSize?: number
  readonly connectTimeoutMs?: number
  readonly statementTimeoutMs?: number
  /** How long an append goes on trying while PostgreSQL is away, and does not know what became of it. Default 30,000. */
  readonly outageMs?: number
  /** The same of queries. Default 5,000. */
  readonly queryOutageMs?: number
}

/** Of all that use this database, only coordinators take this lock: a random number. */
const MIGRATION_LOCK = 4_127_563_219_004_771

const migrate = async (pool: Pool): Promise<void> => {
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query('select pg_advisory_xact_lock($1)', [MIGRATION_LOCK])
    for (const statement of META_TABLE) await client.query(statement)
    const { rows } = await client.query("select value from meta where name = 'schema'")
    let steps: string[]
    try {
      steps = schemaSteps('postgres', Number(rows[0]?.value))
    } catch (error) {
      throw new BrambleError('conflict', { detail: `the database cannot be used: ${(error as Error).message}` })
    }
    for (const statement of steps) await client.query(statement)
    await client.query('commit')
    client.release()
  } catch (error) {
    client.release(true)
    throw error
  }
}

const ACQUIRE = `
update writer set epoch = epoch + 1, flush = 0, name = $1, url = $2, until = ${'$now'} + $3
where id = 1 and until <= ${'$now'} returning epoch, pg_notify('${CHANNEL}', '')`
const RELEASE = `
update writer set epoch = epoch + 1, until = 0 where epoch = $1 returning pg_notify('${CHANNEL}', '')`
/** The clock of the database, at this moment and not at the begin of a transaction. */
const NOW = '(extract(epoch from clock_timestamp()) * 1000)::bigint'

/** Connects, and makes the tables or brings them up to date; several may do that at once. */
export const postgresStore = async (options: PostgresStoreOptions): Promise<Store> => {
  const { url, poolSize = 4, connectTimeoutMs = 5_000, statementTimeoutMs = 30_000 } = options
  const { outageMs = 30_000, queryOutageMs = 5_000 } = options
  const connection = { url, connectTimeoutMs, statementTimeoutMs }
  const pool = new Pool({ ...clientConfig(connection), max: poolSize, idleTimeoutMillis: 30_000 })
  // A connection that breaks while nobody uses it is taken out of the pool: that is all there is to do.
  pool.on('error', () => {})
  // Of one that breaks while it is used, the query hears; that the client says so itself, too, would end the process.
  pool.on('connect', (client) => void client.on('error', () => {}))
  try {
    await migrate(pool)
  } catch (error) {
    await pool.end()
    throw brambleError(error)
  }
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  const appender = openPostgresAppender({ ...connection, outageMs })
  const watchers = new Set<() => Promise<void>>()

  const ask = async (text: string, values: unknown[]): Promise<readonly Record<string, unknown>[]> => {
    try {
      return (await pool.query(text.replaceAll('$now', NOW), values)).rows
    } catch (error) {
      throw brambleError(error)
    }
  }
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    closing ??= (async () => {
      await Promise.all([appender.close(), ...[...watchers].map((end) => end())])
      await db.destroy()
    })()
    return closing
  }

  return {
    name: 'postgres',
    async acquire({ name, url: at, ttlMs }) {
      const [taken] = await ask(ACQUIRE, [name, at, ttlMs])
      if (taken) return { held: true, epoch: Number(taken.epoch) }
      const [holder] = await ask('select name, url, until - $now as left_ms from writer', [])
      return {
        held: false,
        name: String(holder?.name),
        url: String(holder?.url),
        leftMs: Math.max(1, Number(holder?.left_ms)),
      }
    },
    async renew(epoch, ttlMs) {
      const renewed = await ask('update writer set until = $now + $2 where epoch = $1 returning 1', [epoch, ttlMs])
      return renewed.length > 0
    },
    async release(epoch) {
      await ask(RELEASE, [epoch])
    },
    async writer() {
      const [holder] = await ask('select name, url from writer where until > $now', [])
      return holder && { name: String(holder.name), url: String(holder.url) }
    },
    watchWriter(changed) {
      const watch = watchChannel(connection, changed)
      const end = async (): Promise<void> => {
        watchers.delete(end)
        await watch.close()
      }
      watchers.add(end)
      return end
    },
    async append(epoch, batch) {
      await appender.append(epoch, rowsOf(batch))
    },
    ...patient(openQueries(db), queryOutageMs),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** The same queries, asked again while PostgreSQL is away. */
const patient = (queries: Queries, forMs: number): Queries =>
  Object.fromEntries(
    Object.entries(queries).map(([name, query]) => [
      name,
      (...args: unknown[]) => whileAway(forMs, () => Reflect.apply(query, queries, args)),
    ]),
  ) as unknown as Queries
