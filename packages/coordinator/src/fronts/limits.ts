import type { HttpLimits } from '@bramble/http'
import { LIMITS } from '@bramble/protocol'

/** Bounds of one coordinator's front. Those a client meets as a refused field are in `LIMITS` of the protocol. */
export interface FrontLimits extends HttpLimits {
  /** Workers whose streams end here. */
  readonly maxSessions: number
  /** Streams that have not said who they are. */
  readonly maxOpeningSessions: number
  /** How long a worker may take to say it. */
  readonly helloTimeoutMs: number
  /** A stream on which nothing came for so many heartbeats is ended. */
  readonly silentHeartbeats: number
  /** What one worker may say; one that says more is read no faster. */
  readonly sessionFramesPerSecond: number
  readonly sessionBytesPerSecond: number
  /** Frames of one worker that are not taken yet, before it is not read any further. */
  readonly maxPendingFrames: number
  /** What one worker may leave unread before its stream is ended. */
  readonly maxSessionBufferBytes: number
  /** Signed requests of one node. */
  readonly nodeRequestsPerSecond: number
  /** Bytes of blobs that one node may put: the rate, and how much at once. */
  readonly nodeUploadBytesPerSecond: number
  readonly maxNodeUploadBurstBytes: number
  /** Wrong keys and signatures of one address (IPv6: of a /64), and how many at once. */
  readonly failuresPerSecond: number
  readonly failuresBurst: number
  /** Registrations from one address, and from all of them. */
  readonly registrationsPerSecond: number
  readonly allRegistrationsPerSecond: number
  /** Keys, nodes and addresses whose rates are remembered; the one that was quiet longest is forgotten first. */
  readonly maxTrackedRates: number
  /** Of one blob. */
  readonly maxUploadBytes: number
  /** How long blobs of clients and of results are kept; putting one again begins its time anew. */
  readonly blobTtlMs: number
  /** How often blobs that nobody may read any more are removed. */
  readonly collectMs: number
  /** Requests of an API key that has no rate of its own, and does not administer. */
  readonly keyRequestsPerSecond: number
  /** How long keys are taken for what they were: one that was removed elsewhere is refused after it. */
  readonly keyCacheMs: number
  /** How old numbers of the network may be in metrics. */
  readonly statsCacheMs: number
  /** How long a client may send nothing of a blob. */
  readonly uploadStallMs: number
}

const DAY_MS = 24 * 3_600_000

export const DEFAULT_FRONT_LIMITS: FrontLimits = {
  maxBodyBytes: LIMITS.maxBodyBytes.value,
  maxHeldBodyBytes: 256 * 1024 * 1024,
  maxHeaderBytes: 16 * 1024,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 30_000,
  requestTimeoutMs: 3_600_000,
  stallTimeoutMs: 30_000,
  keepAliveMs: 72_000,
  maxConnections: 65_536,
  heartbeatMs: 15_000,
  maxSessions: 32_768,
  maxOpeningSessions: 4096,
  helloTimeoutMs: 10_000,
  silentHeartbeats: 4,
  sessionFramesPerSecond: 500,
  sessionBytesPerSecond: 16 * 1024 * 1024,
  maxPendingFrames: 64,
  maxSessionBufferBytes: 32 * 1024 * 1024,
  nodeRequestsPerSecond: 100,
  nodeUploadBytesPerSecond: 32 * 1024 * 1024,
  maxNodeUploadBurstBytes: 4 * 1024 ** 3,
  failuresPerSecond: 10,
  failuresBurst: 100,
  registrationsPerSecond: 50,
  allRegistrationsPerSecond: 500,
  maxTrackedRates: 65_536,
  maxUploadBytes: 4 * 1024 ** 3,
  blobTtlMs: 7 * DAY_MS,
  collectMs: 3_600_000,
  keyRequestsPerSecond: 2000,
  keyCacheMs: 3000,
  statsCacheMs: 2000,
  uploadStallMs: 60_000,
}
