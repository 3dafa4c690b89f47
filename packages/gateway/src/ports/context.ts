import type { Exposure, Instances } from '@bramble/engine'
import { presentable } from '@bramble/http'
import { BrambleError, toBrambleError } from '@bramble/protocol'
import type { FastifyBaseLogger } from 'fastify'
import { type Access, type AccessRules, admit } from './access.ts'
import type { PortAddress } from './address.ts'
import type { ExchangeEnd } from './exchange.ts'
import type { PortRequest } from './plain-request.ts'
import type { UpstreamPool } from './pool.ts'
import { wantsPage } from './refuse.ts'

export interface PortProxyOptions extends Omit<AccessRules, 'instances'> {
  readonly instances: Pick<Instances, 'findExposed' | 'use'>
  /** In lower case, without a port. */
  readonly domain: string
  /** A client that takes nothing for so long is cut off. */
  readonly stallTimeoutMs: number
  /** A connection that waits for its next request for so long is ended. */
  readonly keepAliveMs: number
  /** The first request has so long to come. */
  readonly headersTimeoutMs: number
  readonly maxHeaderBytes: number
  readonly logger?: FastifyBaseLogger | undefined
  /** Whether the node takes no new requests. */
  readonly isClosing: () => boolean
  readonly pool?: UpstreamPool
}

/** One request, or one connection after its upgrade. */
export interface Live {
  readonly exposure: Exposure
  end(): void
}

export interface PortContext extends PortProxyOptions {
  readonly pool: UpstreamPool
  readonly live: Set<Live>
}

export const admitOrThrow = (context: PortContext, request: PortRequest, address: PortAddress): Access => {
  if (context.isClosing())
    throw new BrambleError('shutting_down', { detail: 'the gateway takes no new requests', retryAfterMs: 1000 })
  return admit(context, request, address)
}

export const isNavigation = (request: PortRequest): boolean =>
  (request.method === 'GET' || request.method === 'HEAD') && wantsPage(request)

/** Idempotent by their definition (RFC 9110, 9.2.2). */
export const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

export const brokenBy = ({ error }: Extract<ExchangeEnd, { type: 'lost' }>): BrambleError =>
  error instanceof BrambleError
    ? error
    : new BrambleError('bad_response', {
        detail: `the app: ${error?.message ?? 'it closed the connection without an answer'}`,
        cause: error,
      })

/** What the client sees of a failure; what is the node's own fault is logged. */
export const shown = (context: PortContext, thrown: unknown): BrambleError => {
  const error = thrown instanceof BrambleError ? thrown : presentable(toBrambleError(thrown).cause ?? thrown)
  if (error.code === 'internal') context.logger?.error({ code: error.code, err: error.cause ?? error }, error.detail)
  return error
}
