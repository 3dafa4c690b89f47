import { BrambleError } from '@bramble/protocol'
import { Client } from 'pg'
import { appendQuery, TRIM_ROWS } from './postgres-append.ts'
import { clientConfig, type PostgresConnection, whileAway } from './postgres-connection.ts'
import type { BatchRows } from './rows.ts'

export interface PostgresAppender {
  append(epoch: number, rows: BatchRows): Promise<void>
  close(): Promise<void>
}

export interface PostgresAppenderOptions extends PostgresConnection {
  /** How long an append goes on while PostgreSQL is away. */
  readonly outageMs: number
}

/**
 * Every table of an append is found by an index, however small it was when the statement was planned; a plan is made once. What
 * is acknowledged is on disk, also where the server's default says otherwise.
 */
const SESSION = `
set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
set plan_cache_mode = force_generic_plan;
select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'`

const OUTCOME = `
select exists(select 1 from writer where epoch = $1 and flush >= $2) as written,
  exists(select 1 from writer where epoch = $1) as present,
  exists(select 1 from log where seq = $3 and epoch = $1) as logged`

/** One connection, for appends alone: they wait for nobody, and their statement stays prepared. */
export const openPostgresAppender = (options: PostgresAppenderOptions): PostgresAppender => {
  let connection: Promise<Client> | undefined
  let last = { epoch: 0, flush: 0 }
  let untrimmed = true
  let closed = false

  const connect = async (): Promise<Client> => {
    const client = new Client(clientConfig(options))
    // What waits for an answer is told; a connection that breaks while nobody does is found broken by the next.
    client.on('error', () => {
      connection = undefined
    })
    await client.connect()
    await client.query(SESSION)
    return client
  }
  const use = async <T>(work: (client: Client) => Promise<T>): Promise<T> => {
    connection ??= connect()
    const used = connection
    try {
      return await work(await used)
    } catch (error) {
      if (connection === used) connection = undefined
      used.then(
        (client) => client.end().catch(() => {}),
        () => {},
      )
      throw error
    }
  }

  /** After an append whose answer was lost. */
  const wasWritten = async (client: Client, epoch: number, flush: number, rows: BatchRows): Promise<boolean> => {
    const { rows: found } = await client.query(OUTCOME, [epoch, flush, rows.log?.seq ?? 0])
    const { written, present, logged } = found[0] ?? {}
    if (written === true || logged === true) return true
    if (present === true) return false
    throw new BrambleError('not_leader', { detail: `the epoch ${epoch} has ended` })
  }

  return {
    async append(epoch, rows) {
      const flush = last.epoch === epoch ? last.flush + 1 : 1
      const trimRows = untrimmed || rows.checkpoint !== undefined ? TRIM_ROWS : 0
      const query = appendQuery(epoch, flush, rows, { trimRows })
      await whileAway(options.outageMs, async (attempt) => {
        if (closed) throw new BrambleError('shutting_down', { detail: 'the store is closed' })
        await use(async (client) => {
          if (attempt > 0 && (await wasWritten(client, epoch, flush, rows))) return
          const { rows: answer } = await client.query(query)
          const { fenced, trimmed } = answer[0] ?? {}
          if (fenced !== 1 && (attempt === 0 || !(await wasWritten(client, epoch, flush, rows))))
            throw new BrambleError('not_leader', { detail: `the epoch ${epoch} has ended` })
          untrimmed = trimmed === TRIM_ROWS
        })
      })
      last = { epoch, flush }
    },
    async close() {
      closed = true
      const ending = connection
      connection = undefined
      await ending?.then(
        (client) => client.end(),
        () => {},
      )
    },
  }
}
