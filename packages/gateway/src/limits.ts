import { LIMITS } from '@bramble/protocol'

/** Bounds of one gateway. Those a client meets as a refused field are in `LIMITS` of the protocol. */
export interface GatewayLimits {
  /** Largest JSON body. */
  readonly maxBodyBytes: number
  /** JSON bodies of all requests under way, those in the queue included. Past it `queue_full`. */
  readonly maxHeldBodyBytes: number
  /** Largest uploaded image archive. */
  readonly maxUploadBytes: number
  /** Request line and headers together. */
  readonly maxHeaderBytes: number
  /** Time for a client to send its headers. */
  readonly headersTimeoutMs: number
  /** Time for a client to send a whole JSON body, once its headers are in. */
  readonly bodyTimeoutMs: number
  /** Time for a client to send anything at all, an archive included. */
  readonly requestTimeoutMs: number
  /** How long a client may take nothing of its answer, or of a stream's next buffer, before it is cut off. */
  readonly stallTimeoutMs: number
  /** How long an idle connection is kept. */
  readonly keepAliveMs: number
  readonly maxConnections: number
  /** Answers kept for `Idempotency-Key`. */
  readonly maxIdempotencyEntries: number
  /** Bytes of kept answers, all tenants together. */
  readonly maxIdempotencyBytes: number
  readonly idempotencyTtlMs: number
  /** Output of all results in one JSON answer of a batch. */
  readonly maxBatchOutputBytes: number
  /** Silence on an event stream before a comment is sent to keep it open. */
  readonly heartbeatMs: number
}

export const DEFAULT_LIMITS: GatewayLimits = {
  maxBodyBytes: LIMITS.maxBodyBytes.value,
  maxHeldBodyBytes: 256 * 1024 * 1024,
  maxUploadBytes: 16 * 1024 ** 3,
  maxHeaderBytes: 16 * 1024,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 30_000,
  requestTimeoutMs: 3_600_000,
  stallTimeoutMs: 300_000,
  keepAliveMs: 72_000,
  maxConnections: 4096,
  maxIdempotencyEntries: 4096,
  maxIdempotencyBytes: 32 * 1024 * 1024,
  idempotencyTtlMs: 600_000,
  maxBatchOutputBytes: 128 * 1024 * 1024,
  heartbeatMs: 15_000,
}
