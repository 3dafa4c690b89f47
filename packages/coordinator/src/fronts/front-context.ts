import type { BlobStore } from '@bramble/blobs'
import type { HttpContext } from '@bramble/http'
import type { Curve, Identity } from '@bramble/identity'
import type { FastifyBaseLogger } from 'fastify'
import type { Network } from '../network/network.ts'
import type { Store } from '../store/store.ts'
import type { AddressOf } from './address.ts'
import type { KeyDocuments } from './key-documents.ts'
import type { FrontLimits } from './limits.ts'
import type { FrontMetrics } from './metrics.ts'
import type { SignedNodes } from './node-requests.ts'
import type { FrontRates } from './rates.ts'
import type { TenantBlobs } from './tenant-blobs.ts'

/** What the routes and sessions of one coordinator work with. */
export interface FrontContext extends HttpContext {
  readonly network: Network
  /** The network's key, and what receipts name it by. */
  readonly identity: Identity
  readonly networkId: string
  readonly curve: Curve
  /** Read only: what is written goes through the network. */
  readonly store: Store
  readonly blobs: BlobStore
  readonly tenantBlobs: TenantBlobs
  readonly keys: KeyDocuments
  readonly nodes: SignedNodes
  readonly metrics: FrontMetrics
  readonly limits: FrontLimits
  readonly rates: FrontRates
  readonly addressOf: AddressOf
  readonly version: string
  readonly startedAt: number
  readonly now: () => number
  /** Workers whose streams end here. */
  readonly sessionCount: () => number
  /** All metrics, with numbers of the network that are `statsCacheMs` old at most. */
  readonly metricsText: () => Promise<string>
  /** The coordinator that writes, where there is one. */
  readonly writerName: () => Promise<string | undefined>
  /** Aborts when this coordinator goes away: whoever waits for something is let go. */
  readonly leaving: AbortSignal
  readonly log?: FastifyBaseLogger | undefined
}
