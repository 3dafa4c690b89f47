import type { IncomingMessage } from 'node:http'
import type { FastifyRequest } from 'fastify'
import type { Caller } from './auth.ts'
import type { HttpMetrics } from './http-metrics.ts'
import type { IdempotencyMemory } from './idempotency.ts'

/** Bounds of one HTTP server. Those a client meets as a refused field are in `LIMITS` of the protocol. */
export interface HttpLimits {
  /** Largest JSON body. */
  readonly maxBodyBytes: number
  /** JSON bodies of all requests under way, those in the queue included. Past it `queue_full`. */
  readonly maxHeldBodyBytes: number
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
  /** Silence on an event stream before a comment is sent to keep it open; between two pings of a WebSocket. */
  readonly heartbeatMs: number
}

/** What routes of any server work with; a server's own context has its parts beside. */
export interface HttpContext {
  authenticate(request: IncomingMessage, token: string | undefined): Caller | Promise<Caller>
  readonly idempotency: IdempotencyMemory
  readonly metrics: Pick<HttpMetrics, 'request'>
  readonly limits: HttpLimits
  /** Bytes of the JSON bodies of requests under way. */
  readonly held: { bodyBytes: number }
  /** Requests at work; aborting one cancels what it runs. */
  readonly inFlight: Set<AbortController>
  /** Origins whose pages may read answers. */
  readonly corsOrigins: readonly string[]
  readonly shutdown: { closing: boolean; idle?: () => void }
  /** Told of the bytes that event streams carry as they are. */
  readonly countOutput?: (bytes: number) => void
  /** There where routes have the scope `node`. */
  readonly nodes?: NodeRequests
}

/** Requests that are signed by a node of a network instead of carrying a key. */
export interface NodeRequests {
  /** What can be refused before the body is read. */
  admit(request: FastifyRequest): void
  /** Throws unless the node whom its headers name signed it, with a body of this SHA-256 (hex), and it is new. */
  verify(request: FastifyRequest, bodySha256: string): Promise<void>
}
