import type { HttpLimits } from '@bramble/http'
import { LIMITS } from '@bramble/protocol'

/** Bounds of one gateway. Those a client meets as a refused field are in `LIMITS` of the protocol. */
export interface GatewayLimits extends HttpLimits {
  /** Largest uploaded image archive. */
  readonly maxUploadBytes: number
  /** Largest file of an exported snapshot that is taken in; the store and the tenant's quota are what bound it first. */
  readonly maxSnapshotFileBytes: number
  /** Answers kept for `Idempotency-Key`. */
  readonly maxIdempotencyEntries: number
  /** Bytes of kept answers, all tenants together. */
  readonly maxIdempotencyBytes: number
  readonly idempotencyTtlMs: number
  /** Output of all results in one JSON answer of a batch. */
  readonly maxBatchOutputBytes: number
  /** How long a client may send nothing of a file or an archive for an instance. */
  readonly uploadStallMs: number
  /** What one archive for an instance may unpack to; its disk is what bounds it first. */
  readonly maxUnpackedBytes: number
  /** Files of one zip archive, or parts of one form. */
  readonly maxArchiveEntries: number
  /** How many times its size a zip archive may unpack to. Deflate reaches 1032. */
  readonly maxZipRatio: number
  /** Bytes on their way to a WebSocket's client before whoever writes has to wait. */
  readonly liveBufferBytes: number
  /** Standard input of one WebSocket's commands that waits for them, before its client is not heard any more. */
  readonly livePendingBytes: number
  /** How long a WebSocket's client may take nothing before it is cut off. */
  readonly liveStallMs: number
  /** How long a terminal whose client vanished waits for it to come back. */
  readonly ptyKeepMs: number
  /** TCP tunnels of one instance at once; each is a channel of its agent. */
  readonly maxTunnels: number
}

export const DEFAULT_LIMITS: GatewayLimits = {
  maxBodyBytes: LIMITS.maxBodyBytes.value,
  maxHeldBodyBytes: 256 * 1024 * 1024,
  maxUploadBytes: 16 * 1024 ** 3,
  maxSnapshotFileBytes: 64 * 1024 ** 3,
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
  uploadStallMs: 60_000,
  maxUnpackedBytes: 64 * 1024 ** 3,
  maxArchiveEntries: 1_000_000,
  maxZipRatio: 1100,
  liveBufferBytes: 256 * 1024,
  livePendingBytes: 1024 * 1024,
  liveStallMs: 30_000,
  ptyKeepMs: 60_000,
  maxTunnels: 128,
}
