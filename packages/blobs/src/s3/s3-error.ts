import { BrambleError } from '@bramble/protocol'

/** What a failed request means for the store. */
export type Failure =
  /** There is no such object (or upload). */
  | 'missing'
  /** The object is another than the one that was begun with. */
  | 'changed'
  /** A range outside of the object. */
  | 'range'
  /** The same request may succeed in a moment. */
  | 'transient'
  /** Nothing that a moment changes: credentials, permissions, no such bucket, a request that the server does not know. */
  | 'refused'

interface Thrown {
  readonly name: string
  readonly message: string
  readonly code: string
  readonly status: number | undefined
}

const partsOf = (thrown: unknown): Thrown => {
  if (!(thrown instanceof Error)) return { name: 'Error', message: String(thrown), code: '', status: undefined }
  const { name, message } = thrown
  const { code, $metadata } = thrown as { code?: unknown; $metadata?: { httpStatusCode?: number } }
  return { name, message, code: String(code ?? ''), status: $metadata?.httpStatusCode }
}

/** Codes of S3 that may pass although their status is one of the client's. */
const TRANSIENT_CODES =
  /^(RequestTimeout|RequestTimeTooSkewed|SlowDown|OperationAborted|BadDigest|IncompleteBody|Throttl)/

export const failureOf = (thrown: unknown): Failure => {
  const { name, status } = partsOf(thrown)
  if (name === 'NoSuchBucket') return 'refused'
  if (TRANSIENT_CODES.test(name) || name === 'TimeoutError') return 'transient'
  if (/Credentials|InvalidRegion|RegionMissing/i.test(name)) return 'refused'
  if (status === undefined || status >= 500 || status === 429 || status === 408) return 'transient'
  if (status === 404) return 'missing'
  if (status === 412) return 'changed'
  if (status === 416) return 'range'
  // A body that is no answer of S3: an intermediary, a server that is just starting.
  return status < 300 ? 'transient' : 'refused'
}

/** The failure as an error of the store: which tier, what was tried, why. The SDK's own error may hold parts of the signature. */
export const unavailable = (label: string, what: string, thrown: unknown): BrambleError => {
  if (thrown instanceof BrambleError) return thrown
  const { name, message, code, status } = partsOf(thrown)
  const reason = [
    status !== undefined && `status ${status}`,
    code !== '' ? code : name,
    // `UnknownError` is what the SDK says of an answer without a body.
    message !== '' && message !== 'UnknownError' && message !== name && short(message),
  ]
  return new BrambleError('store_unavailable', {
    detail: `s3 (${label}): ${what}: ${reason.filter((part) => part !== false).join(', ')}`,
  })
}

const short = (message: string): string => message.replace(/\s+/g, ' ').slice(0, 200)
