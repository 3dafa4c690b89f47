import { setTimeout as delay } from 'node:timers/promises'
import { BrambleError } from '@bramble/protocol'
import { type ClientConfig, type CustomTypesConfig, DatabaseError, types } from 'pg'

export interface PostgresConnection {
  /** `postgresql://user:password@host/database`, or what else libpq knows as one. */
  readonly url: string
  readonly connectTimeoutMs: number
  readonly statementTimeoutMs: number
}

const INT8_OID = 20
const NUMERIC_OID = 1700

/** Whole numbers of 64 bits as numbers: none here is above 2^53. */
const numbers: CustomTypesConfig = {
  getTypeParser: (oid, format) => (oid === INT8_OID || oid === NUMERIC_OID ? Number : types.getTypeParser(oid, format)),
}

/** A server that does not answer at all is given up a little later than one that is slow. */
const SILENCE_MS = 5_000

export const clientConfig = ({ url, connectTimeoutMs, statementTimeoutMs }: PostgresConnection): ClientConfig => ({
  connectionString: url,
  connectionTimeoutMillis: connectTimeoutMs,
  statement_timeout: statementTimeoutMs,
  query_timeout: statementTimeoutMs + SILENCE_MS,
  idle_in_transaction_session_timeout: statementTimeoutMs,
  keepAlive: true,
  application_name: 'bramble-coordinator',
  types: numbers,
})

/**
 * Classes of SQLSTATE after which the same may succeed, on another connection: connection lost, rolled back for another's sake,
 * too many connections, cancelled or shut down, a standby (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const PASSING = ['08', '40', '53300', '57', '25006']

/** Ours, or those of the language: what `pg` says of a connection is a plain `Error`. */
const OTHERS = [BrambleError, TypeError, SyntaxError, RangeError]

/** Whether the server, or the way to it, is the matter. */
export const isAway = (error: unknown): boolean =>
  error instanceof DatabaseError
    ? PASSING.some((prefix) => error.code?.startsWith(prefix))
    : error instanceof Error && !OTHERS.some((type) => error instanceof type)

const CODES = { '23505': 'conflict', '53100': 'store_full' } as const

export const brambleError = (error: unknown): unknown => {
  if (error instanceof BrambleError || !(error instanceof Error)) return error
  if (isAway(error))
    return new BrambleError('store_unavailable', { detail: `PostgreSQL: ${said(error)}`, cause: error })
  const code = error instanceof DatabaseError ? CODES[error.code as keyof typeof CODES] : undefined
  return code === undefined ? error : new BrambleError(code, { detail: `PostgreSQL: ${error.message}`, cause: error })
}

/** Of a host with several addresses, Node says nothing but what is in `errors`. */
const said = (error: Error): string =>
  error.message || (error instanceof AggregateError ? error.errors.map(String).join('; ') : error.name)

const FIRST_PAUSE_MS = 20
const MAX_PAUSE_MS = 1_000

/** Does it again while PostgreSQL is away, for `forMs`; then, or for what will not pass, rejects with a `BrambleError`. */
export const whileAway = async <T>(forMs: number, work: (attempt: number) => Promise<T>): Promise<T> => {
  const until = performance.now() + forMs
  for (let attempt = 0; ; attempt++) {
    try {
      return await work(attempt)
    } catch (error) {
      if (!isAway(error) || performance.now() >= until) throw brambleError(error)
      await delay(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(attempt, 10)))
    }
  }
}
