import {
  healthSchema,
  type Pool,
  type PrewarmRequest,
  pageSchema,
  poolSchema,
  type UsageRow,
  usageResponseSchema,
} from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import type { Transport } from './transport.ts'

export interface PrewarmInput {
  /** Default `base`. */
  readonly image?: string | undefined
  /** The least number of sandboxes that stand ready; 0 leaves it to the demand. */
  readonly count: number
  readonly runtime?: PrewarmRequest['runtime'] | undefined
  readonly resources?: Partial<PrewarmRequest['resources']> | undefined
}

export interface UsageQuery extends CallOptions {
  readonly since?: Date | undefined
  readonly until?: Date | undefined
  /** Default: the key's own; another one needs the scope `admin`. */
  readonly tenant?: string | undefined
}

export interface UsageReport {
  readonly since: string
  readonly until: string
  readonly items: UsageRow[]
}

export interface Health {
  /** `degraded`: no runtime of the node can be used. */
  readonly status: 'ok' | 'degraded'
  readonly version: string
  readonly uptimeMs: number
  readonly runtimes: { name: string; available: boolean; reason?: string | undefined }[]
}

/** Making many sandboxes may take longer than any other request of its kind. */
const PREWARM_TIMEOUT_MS = 280_000

const poolList = pageSchema(poolSchema).partial({ nextCursor: true })

/** Keeps sandboxes ready, and resolves when they are. */
export const prewarm = (transport: Transport, input: PrewarmInput, options: CallOptions = {}): Promise<Pool> =>
  transport.json(
    {
      method: 'POST',
      path: '/api/v1/prewarm',
      body: input,
      requestTimeoutMs: PREWARM_TIMEOUT_MS,
      repeatable: true,
      ...options,
    },
    poolSchema,
  )

export const pools = async (transport: Transport, options: CallOptions = {}): Promise<Pool[]> =>
  (await transport.json({ method: 'GET', path: '/api/v1/pools', ...options }, poolList)).items

export const usage = (transport: Transport, query: UsageQuery = {}): Promise<UsageReport> => {
  const { since, until, tenant, ...options } = query
  return transport.json(
    {
      method: 'GET',
      path: '/api/v1/usage',
      query: { since: since?.toISOString(), until: until?.toISOString(), tenant },
      ...options,
    },
    usageResponseSchema,
  )
}

/** Needs no key. */
export const health = (transport: Transport, options: CallOptions = {}): Promise<Health> =>
  transport.json({ method: 'GET', path: '/health', ...options }, healthSchema)
