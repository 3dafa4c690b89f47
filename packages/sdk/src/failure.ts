import { BrambleError, type ErrorCode, type ExecutionResult, type Problem, problemSchema } from '@bramble/protocol'
import { readText } from './body.ts'
import { SDK_LIMITS } from './limits.ts'

/** What the results of all commands have: executions, and commands in instances. */
export type CommandOutcome = Pick<
  ExecutionResult,
  'status' | 'exitCode' | 'signal' | 'message' | 'stdout' | 'stderr' | 'encoding'
>

/** Thrown only where `check` was asked for: the command did not succeed. The whole result is on `result`. */
export class CommandFailedError<R extends CommandOutcome = ExecutionResult> extends BrambleError {
  readonly result: R

  constructor(result: R) {
    super('command_failed', { detail: describe(result) })
    this.result = result
  }
}

const describe = (result: CommandOutcome): string => {
  const how =
    result.status !== 'failed'
      ? `status ${result.status}${result.message === undefined ? '' : ` (${result.message})`}`
      : result.signal === undefined
        ? `exit code ${result.exitCode}`
        : `signal ${result.signal}`
  const said = result.encoding === 'utf8' ? result.stderr.trim().slice(-300) : ''
  return said === '' ? how : `${how}, and stderr ends with: ${said}`
}

/** The error of an aborted call: a reason that is a `BrambleError` stays itself, any other is the `cause`. */
export const cancelled = (reason: unknown): BrambleError =>
  reason instanceof BrambleError
    ? reason
    : new BrambleError('cancelled', { detail: 'the signal of this call was aborted', cause: reason })

export const badResponse = (detail: string, cause?: unknown): BrambleError =>
  new BrambleError('bad_response', { detail, cause })

/** Statuses that something before the node may answer with, without a problem document. */
const CODE_OF_STATUS: Record<number, ErrorCode> = {
  400: 'invalid_request',
  401: 'unauthorized',
  403: 'forbidden',
  405: 'method_not_allowed',
  408: 'request_timeout',
  409: 'conflict',
  413: 'body_too_large',
  415: 'unsupported_media_type',
  422: 'invalid_request',
  429: 'rate_limited',
  500: 'internal',
  501: 'unsupported',
  502: 'connection_failed',
  503: 'connection_failed',
  504: 'request_timeout',
}

/** The error that an answer other than 2xx stands for: its problem document, else what its status allows to say. */
export const failureOf = async (response: Response): Promise<BrambleError> => {
  const type = response.headers.get('content-type') ?? ''
  const retryAfterMs = retryAfterOf(response.headers)
  let body: unknown
  if (/[/+]json\b/.test(type)) {
    try {
      body = JSON.parse(await readText(response, SDK_LIMITS.maxProblemBytes))
    } catch {
      // A broken body changes nothing about the failure: the status tells it.
    }
  } else {
    await response.body?.cancel().catch(() => undefined)
  }
  const parsed = problemSchema.safeParse(body)
  if (parsed.success) return BrambleError.fromProblem(withRetryAfter(parsed.data, retryAfterMs))
  const code = CODE_OF_STATUS[response.status] ?? 'bad_response'
  const detail = (body as { detail?: unknown } | undefined)?.detail
  return new BrambleError(code, {
    detail:
      typeof detail === 'string' ? detail : `${response.url} answered ${response.status} without a problem document`,
    ...(retryAfterMs !== undefined && { retryAfterMs }),
  })
}

const withRetryAfter = (problem: Problem, retryAfterMs: number | undefined): Problem =>
  problem.retryAfterMs === undefined && retryAfterMs !== undefined ? { ...problem, retryAfterMs } : problem

/** `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3). */
const retryAfterOf = (headers: Headers): number | undefined => {
  const value = headers.get('retry-after')
  if (value === null) return undefined
  if (/^\d+(\.\d+)?$/.test(value)) return Math.round(Number(value) * 1000)
  const date = Date.parse(value)
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}

/** What `fetch`, or reading its body, threw: the clock of the client where that fired, else a lost connection. */
export const connectionFailure = (thrown: unknown, url: string): BrambleError => {
  if (thrown instanceof BrambleError) return thrown
  const reasons: string[] = []
  let code: unknown
  for (let error = thrown; error instanceof Error && reasons.length < 4; error = error.cause) {
    code ??= (error as { code?: unknown }).code
    if (error.message !== '' && error.message !== 'fetch failed') reasons.push(error.message)
    else if (typeof code === 'string') reasons.push(code)
  }
  const detail = `${url}: ${[...new Set(reasons)].join(': ') || 'no answer'}`
  const timedOut = code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT'
  return new BrambleError(timedOut ? 'request_timeout' : 'connection_failed', { detail, cause: thrown })
}

const NOT_BEGUN = new Set<ErrorCode>([
  'rate_limited',
  'quota_exceeded',
  'queue_full',
  'shutting_down',
  'sandbox_failed',
])
/** What sockets and name lookups say before a byte of the request has left. */
const NOT_SENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** Whether a node said that the request is not for it, so that another may be asked. */
export const wasRefused = ({ code }: BrambleError): boolean => code === 'unauthorized' || code === 'no_node'

/** Whether the node cannot have begun what was asked: it refused, or the request never reached it. */
export const neverStarted = (error: BrambleError): boolean => {
  if (NOT_BEGUN.has(error.code)) return true
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause)
    if (NOT_SENT.has(String((cause as { code?: unknown }).code))) return true
  return false
}
