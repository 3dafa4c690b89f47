import { z } from 'zod'

/**
 * The one table of errors: code, HTTP status, whether the same request may succeed later, and the next step for the
 * reader. Problem documents follow RFC 9457; `docs/errors.md` is held against this table by a test.
 */
export const ERRORS = {
  invalid_request: {
    status: 400,
    retryable: false,
    title: 'The request is not valid',
    hint: 'Correct the fields named in `issues` and send it again.',
  },
  invalid_json: {
    status: 400,
    retryable: false,
    title: 'The body is not valid JSON',
    hint: 'Send one JSON object with `content-type: application/json`.',
  },
  unsupported_media_type: {
    status: 415,
    retryable: false,
    title: 'The media type is not supported',
    hint: 'Send JSON with `content-type: application/json`.',
  },
  unauthorized: {
    status: 401,
    retryable: false,
    title: 'The API key is missing or not known',
    hint: 'Send `Authorization: Bearer <api key>`; `bramble keys` lists and makes keys.',
  },
  forbidden: {
    status: 403,
    retryable: false,
    title: 'The API key does not allow this',
    hint: 'Use a key with the scope named in `detail`.',
  },
  not_found: {
    status: 404,
    retryable: false,
    title: 'There is no such thing here',
    hint: 'Check the id and the path; a tenant sees only its own.',
  },
  method_not_allowed: {
    status: 405,
    retryable: false,
    title: 'The method is not allowed here',
    hint: 'See `/docs` for the methods of this path.',
  },
  conflict: {
    status: 409,
    retryable: false,
    title: 'The request conflicts with the present state',
    hint: 'Read the present state, then decide again.',
  },
  idempotency_mismatch: {
    status: 409,
    retryable: false,
    title: 'The idempotency key was used for another body',
    hint: 'Use a new `Idempotency-Key` for a new request.',
  },
  body_too_large: {
    status: 413,
    retryable: false,
    title: 'The body is larger than the limit',
    hint: 'See docs/limits.md; large inputs belong in an image or a file upload.',
  },
  rate_limited: {
    status: 429,
    retryable: true,
    title: 'Too many requests',
    hint: 'Wait for the seconds in `Retry-After`, then try again.',
  },
  quota_exceeded: {
    status: 429,
    retryable: true,
    title: 'A quota of this key or tenant is used up',
    hint: 'Wait for running work to end, or ask for a larger quota.',
  },
  queue_full: {
    status: 503,
    retryable: true,
    title: 'The node has no room for more work',
    hint: 'Wait for the seconds in `Retry-After`, then try again.',
  },
  shutting_down: {
    status: 503,
    retryable: true,
    title: 'The node is shutting down',
    hint: 'Send the request to another node, or try again in a moment.',
  },
  image_not_found: {
    status: 404,
    retryable: false,
    title: 'The image is not on this node',
    hint: '`bramble images` lists the images here; `bramble images import` brings one in.',
  },
  image_invalid: {
    status: 422,
    retryable: false,
    title: 'The image cannot be read',
    hint: 'Give a rootfs tar, an OCI layout or archive, or a registry reference.',
  },
  image_pull_failed: {
    status: 502,
    retryable: true,
    title: 'The image could not be pulled',
    hint: 'Check the reference and that the registry answers.',
  },
  image_in_use: {
    status: 409,
    retryable: true,
    title: 'The image is in use',
    hint: 'End the executions that use it, then remove it.',
  },
  unsupported: {
    status: 501,
    retryable: false,
    title: 'This node cannot do that',
    hint: '`bramble doctor` says what this host offers and what is missing.',
  },
  no_isolation: {
    status: 501,
    retryable: false,
    title: 'This host can isolate nothing',
    hint: 'Run as root, install what `bramble doctor` names, or start with `--no-isolation` for your own code only.',
  },
  sandbox_failed: {
    status: 500,
    retryable: true,
    title: 'A sandbox could not be started',
    hint: 'Try again; `bramble doctor` tests the runtime of this host.',
  },
  sandbox_died: {
    status: 500,
    retryable: true,
    title: 'The sandbox ended before the command did',
    hint: 'Try again; see the limits of memory and pids if it happens again.',
  },
  instance_stopped: {
    status: 409,
    retryable: false,
    title: 'The instance is stopped',
    hint: 'Start it again with `POST …/start` (`bramble start`); its files are kept.',
  },
  file_not_found: {
    status: 404,
    retryable: false,
    title: 'There is no such file in the sandbox',
    hint: 'Check the path; it is one of the sandbox.',
  },
  file_refused: {
    status: 422,
    retryable: false,
    title: 'The sandbox refuses that on this file',
    hint: 'Read `detail`: permissions, kind of file, or room are those of the sandbox and its user.',
  },
  range_not_satisfiable: {
    status: 416,
    retryable: false,
    title: 'The file has no such range',
    hint: 'Ask for a range within the size that `content-range` tells.',
  },
  port_closed: {
    status: 502,
    retryable: true,
    title: 'Nothing listens on that port in the sandbox',
    hint: 'Start the server, on any address of the sandbox, then try again; `GET …/ports` lists what listens.',
  },
  slow_consumer: {
    status: 408,
    retryable: true,
    title: 'The client does not take what is sent to it',
    hint: 'Read the stream faster; reconnect with `since` to go on where you were.',
  },
  window_passed: {
    status: 410,
    retryable: false,
    title: 'What was asked for is no longer kept',
    hint: 'Connect without `since`, and read the state anew.',
  },
  blob_not_found: {
    status: 404,
    retryable: false,
    title: 'There is no such blob',
    hint: 'Put it again; a tenant sees only its own.',
  },
  blob_corrupt: {
    status: 500,
    retryable: true,
    title: 'Stored bytes do not have the hash they are named by',
    hint: 'The damaged copy is set aside, and healed where another tier has the blob. Try again, or store it anew.',
  },
  store_unavailable: {
    status: 503,
    retryable: true,
    title: 'The store does not answer',
    hint: 'Try again later; see `detail` for which tier and why. Work that does not need it goes on.',
  },
  store_full: {
    status: 507,
    retryable: true,
    title: 'There is no room left in the store',
    hint: 'Remove snapshots that are not needed, and what they had with `bramble store collect --grace 1m`; or give the node more room (`--store-max-gb`, or the disk).',
  },
  store_read_only: {
    status: 503,
    retryable: true,
    title: 'The store cannot be written',
    hint: 'The file system of the data directory is read-only; see the log of the host.',
  },
  snapshot_incompatible: {
    status: 409,
    retryable: false,
    title: 'The snapshot cannot run here',
    hint: 'Restore it without memory (`memory: false`), or on a node like the one that took it.',
  },
  checkpoint_refused: {
    status: 409,
    retryable: false,
    title: 'The memory of the sandbox cannot be saved as it is',
    hint: 'See `detail` for the process that holds it up. The sandbox goes on; take the snapshot without memory, or end that process.',
  },
  merge_conflict: {
    status: 409,
    retryable: false,
    title: 'The branches changed the same things in different ways',
    hint: 'See `conflicts`; choose a strategy (`ours`, `theirs`, `union`), or change a branch.',
  },
  import_refused: {
    status: 422,
    retryable: false,
    title: 'The file is not a snapshot that can be imported',
    hint: 'Export it again with `bramble snapshot export`; see `detail`.',
  },
  lease_lost: {
    status: 409,
    retryable: false,
    title: 'The lease is not held any more',
    hint: 'Stop the execution: it was placed again, or its job has ended. A result is recorded and does not count.',
  },
  signature_invalid: {
    status: 401,
    retryable: false,
    title: 'The signature is not one of that node for this message',
    hint: 'Sign with the key the node registered with; each request is signed anew.',
  },
  clock_skew: {
    status: 401,
    retryable: true,
    title: 'The time of the request is too far from the time here',
    hint: 'Correct it by `serverTime` of the answer, and sign again.',
  },
  replayed: {
    status: 409,
    retryable: false,
    title: 'The request was sent before',
    hint: 'Each signed request has a nonce of its own.',
  },
  result_refused: {
    status: 422,
    retryable: false,
    title: 'The result is not one that can be taken',
    hint: 'See `detail`: what was sent does not have the hash that was signed, or breaks a limit.',
  },
  node_suspended: {
    status: 403,
    retryable: false,
    title: 'The node may not take work',
    hint: 'See `detail` for why; a new identity of the same owner has to wait.',
  },
  insufficient_credits: {
    status: 402,
    retryable: false,
    title: 'The tenant has not enough credits',
    hint: 'Ask whoever runs the network for more, or lower `creditsRequired` or `redundancy`.',
  },
  no_node: {
    status: 503,
    retryable: true,
    title: 'No node can serve this now',
    hint: 'See `detail` for what stops which nodes; try again in a moment.',
  },
  not_leader: {
    status: 503,
    retryable: true,
    title: 'The coordinators are choosing who writes',
    hint: 'Try again in a moment; nothing is lost.',
  },
  agent_protocol: {
    status: 500,
    retryable: true,
    title: 'The agent in the sandbox broke its protocol',
    hint: 'Try again in a new sandbox; the old one is destroyed.',
  },
  cancelled: { status: 499, retryable: false, title: 'The request was cancelled', hint: 'Nothing is left to do.' },
  request_timeout: {
    status: 504,
    retryable: true,
    title: 'The request waited longer than allowed',
    hint: 'Try again, or allow a longer wait.',
  },
  connection_failed: {
    status: 502,
    retryable: true,
    title: 'The node could not be reached',
    hint: 'Check the URL and that `bramble up` runs there.',
  },
  bad_response: {
    status: 502,
    retryable: false,
    title: 'The answer is not one of a Bramble node',
    hint: 'Check the URL.',
  },
  command_failed: {
    status: 422,
    retryable: false,
    title: 'The command exited with a code other than 0',
    hint: 'Read `stderr` of the result; this is an error because `check` was asked for.',
  },
  internal: {
    status: 500,
    retryable: true,
    title: 'Something broke in the node',
    hint: 'Report it with the `requestId`; the log has the cause.',
  },
} as const satisfies Record<string, { status: number; retryable: boolean; title: string; hint: string }>

export type ErrorCode = keyof typeof ERRORS
export const ERROR_CODES = Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]]

export const issueSchema = z.object({ path: z.string(), message: z.string() })

/** RFC 9457 problem details with our members. */
export const problemSchema = z.object({
  type: z.string(),
  title: z.string(),
  status: z.number().int(),
  detail: z.string(),
  code: z.enum(ERROR_CODES),
  hint: z.string(),
  retryable: z.boolean(),
  requestId: z.string().optional(),
  retryAfterMs: z.number().int().optional(),
  issues: z.array(issueSchema).optional(),
})
export type Problem = z.infer<typeof problemSchema>

export interface ErrorOptions {
  /** What happened, with the data that tells it: one sentence, no advice (the table has it). */
  detail: string
  cause?: unknown
  retryAfterMs?: number
  issues?: z.infer<typeof issueSchema>[]
  requestId?: string
}

/** The one error class of Bramble: tell errors apart by `code`, never by `message`. */
export class BrambleError extends Error {
  override readonly name = 'BrambleError'
  readonly code: ErrorCode
  readonly status: number
  readonly retryable: boolean
  readonly hint: string
  readonly detail: string
  readonly retryAfterMs?: number
  readonly issues?: z.infer<typeof issueSchema>[]
  readonly requestId?: string

  constructor(code: ErrorCode, options: ErrorOptions) {
    const row = ERRORS[code]
    super(`${row.title}: ${options.detail}`, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.status = row.status
    this.retryable = row.retryable
    this.hint = row.hint
    this.detail = options.detail
    if (options.retryAfterMs !== undefined) this.retryAfterMs = options.retryAfterMs
    if (options.issues !== undefined) this.issues = options.issues
    if (options.requestId !== undefined) this.requestId = options.requestId
  }

  toProblem(requestId?: string): Problem {
    const id = requestId ?? this.requestId
    return {
      type: `https://bramble.dev/errors/${this.code}`,
      title: ERRORS[this.code].title,
      status: this.status,
      detail: this.detail,
      code: this.code,
      hint: this.hint,
      retryable: this.retryable,
      ...(id !== undefined && { requestId: id }),
      ...(this.retryAfterMs !== undefined && { retryAfterMs: this.retryAfterMs }),
      ...(this.issues !== undefined && { issues: this.issues }),
    }
  }

  static fromProblem(problem: Problem): BrambleError {
    return new BrambleError(problem.code, {
      detail: problem.detail,
      ...(problem.retryAfterMs !== undefined && { retryAfterMs: problem.retryAfterMs }),
      ...(problem.issues !== undefined && { issues: problem.issues }),
      ...(problem.requestId !== undefined && { requestId: problem.requestId }),
    })
  }
}

/**
 * Any thrown value as a `BrambleError`; what is not one becomes `internal` with the value as its cause. Of an error, and one that
 * releasing what was held threw then (`SuppressedError`), the first is meant.
 */
export const toBrambleError = (thrown: unknown): BrambleError => {
  if (thrown instanceof BrambleError) return thrown
  if (thrown instanceof Error && thrown.name === 'SuppressedError' && 'suppressed' in thrown)
    return toBrambleError(thrown.suppressed)
  const detail = thrown instanceof Error ? thrown.message : String(thrown)
  return new BrambleError('internal', { detail, cause: thrown })
}

interface PlainIssue {
  readonly path: PropertyKey[]
  readonly message: string
}

/** Of a union, zod says only that nothing fits: what is missing from the alternative that comes nearest says more. */
const plainIssues = (issue: z.core.$ZodIssue): PlainIssue[] => {
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return [issue]
  const ofOtherType = (inner: z.core.$ZodIssue): boolean => inner.code === 'invalid_type' && inner.path.length === 0
  const near = issue.errors.filter((alternative) => !alternative.some(ofOtherType))
  const [nearest] = near.sort((left, right) => left.length - right.length)
  if (nearest !== undefined)
    return nearest.flatMap(plainIssues).map(({ path, message }) => ({ path: [...issue.path, ...path], message }))
  const expected = issue.errors.flatMap(([first]) => (first?.code === 'invalid_type' ? [first.expected] : []))
  return [{ path: issue.path, message: `expected ${expected.join(' or ')}` }]
}

/** Parses `value` by `schema`, or throws `invalid_request` with one issue per wrong field. */
export const parse = <S extends z.ZodType>(schema: S, value: unknown): z.output<S> => {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issues = parsed.error.issues
    .flatMap(plainIssues)
    .slice(0, 16)
    .map((issue) => ({ path: issue.path.map(String).join('.'), message: issue.message }))
  const first = issues[0]
  const detail = first
    ? `${first.path === '' ? 'the request' : `\`${first.path}\``}: ${first.message}`
    : 'it does not match the schema'
  throw new BrambleError('invalid_request', { detail, issues })
}
