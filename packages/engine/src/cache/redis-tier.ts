import { BrambleError } from '@bramble/protocol'
import { Redis } from 'ioredis'
import type { Clock, EngineNotice, Log } from '../options.ts'
import { createBreaker } from './breaker.ts'
import { type Invalidation, invalidationSchema } from './invalidations.ts'
import { jsonIn, resultName } from './names.ts'
import { within } from './within.ts'

/**
 * Redis beside the store: results that are found at once by every node, and word of invalidations. Nothing is in it alone: a
 * Redis that is down, slow, full, or has forgotten everything costs a few milliseconds at first, and nothing after that.
 */
export interface RedisTier {
  /** Undefined: it has none, or did not say in time. Never throws. */
  get(tenant: string, inputHash: string): Promise<Uint8Array | undefined>
  /** Nobody waits for it. */
  set(tenant: string, inputHash: string, value: Uint8Array, ttlMs: number): void
  remove(tenant: string, inputHash: string): void
  tell(one: Invalidation): void
  /** Whether invalidations of others are heard. */
  readonly listening: boolean
  close(): Promise<void>
}

export interface RedisTierOptions {
  /** `redis://` or `rediss://`. */
  readonly url: string
  readonly waitMs: number
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly onInvalidation: (one: Invalidation) => void
  /** Words may have been missed: it was not heard for a while. */
  readonly onListening: () => void
}

const PREFIX = 'bramble:'
const CHANNEL = `${PREFIX}invalidations`
/** Larger results are in the store alone. */
const MAX_VALUE_BYTES = 256 * 1024
const MAX_MESSAGE_BYTES = 8 * 1024
/** Redis keeps what was asked for lately; the store has all. */
const MAX_TTL_MS = 24 * 3_600_000
const CONNECT_TIMEOUT_MS = 2_000
const COMMAND_TIMEOUT_MS = 1_000
const MAX_RECONNECT_MS = 5_000
/** Values on their way, at most: one that does not take them gets no more. */
const MAX_PENDING = 256

/** Throws `invalid_request` for what is no address of a Redis. */
export const checkRedisUrl = (url: string): string => {
  if (URL.canParse(url) && ['redis:', 'rediss:'].includes(new URL(url).protocol)) return url
  throw new BrambleError('invalid_request', { detail: 'the URL of Redis begins with redis:// or rediss://' })
}

export const openRedisTier = (options: RedisTierOptions): RedisTier => {
  const { clock, log, notice, onInvalidation, onListening, waitMs } = options
  const connect = (): Redis => {
    const redis = new Redis(checkRedisUrl(options.url), {
      connectTimeout: CONNECT_TIMEOUT_MS,
      commandTimeout: COMMAND_TIMEOUT_MS,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      autoResubscribe: false,
      retryStrategy: (times) => Math.min(MAX_RECONNECT_MS, 100 * 2 ** Math.min(times, 10)),
    })
    // Who cannot reach it is told by what fails; an event without a listener would end the process.
    redis.on('error', () => {})
    return redis
  }
  const redis = connect()
  const subscriber = connect()
  const breaker = createBreaker(clock, () => {
    log.warn({}, 'Redis does not answer: the cache goes on without it')
    notice({ type: 'cacheTier', tier: 'redis' })
  })
  let listening = false
  let pending = 0

  subscriber.on('ready', () => {
    subscriber.subscribe(CHANNEL).then(
      () => {
        listening = true
        onListening()
      },
      () => subscriber.disconnect(true),
    )
  })
  subscriber.on('close', () => {
    listening = false
  })
  subscriber.on('messageBuffer', (_channel: Buffer, message: Buffer) => {
    const parsed = message.length <= MAX_MESSAGE_BYTES ? invalidationSchema.safeParse(jsonIn(message)) : undefined
    if (parsed?.success) onInvalidation(parsed.data)
    else log.warn({ bytes: message.length }, 'a message of Redis is no invalidation')
  })

  const usable = (): boolean => redis.status === 'ready' && !breaker.open
  const behind = (work: () => Promise<unknown>): void => {
    if (!usable() || pending >= MAX_PENDING) return
    pending++
    work()
      .then(
        () => breaker.succeeded(),
        () => breaker.failed(),
      )
      .finally(() => {
        pending--
      })
  }
  const keyOf = (tenant: string, inputHash: string): string => PREFIX + resultName(tenant, inputHash)

  return {
    async get(tenant, inputHash) {
      if (!usable()) return undefined
      try {
        const asked = await within(waitMs, async () => ({ value: await redis.getBuffer(keyOf(tenant, inputHash)) }))
        if (asked) breaker.succeeded()
        else breaker.failed()
        return asked?.value ?? undefined
      } catch {
        breaker.failed()
        return undefined
      }
    },
    set(tenant, inputHash, value, ttlMs) {
      const px = Math.min(MAX_TTL_MS, Math.floor(ttlMs))
      if (value.length > MAX_VALUE_BYTES || px < 1) return
      behind(() => redis.set(keyOf(tenant, inputHash), Buffer.from(value), 'PX', px))
    },
    remove: (tenant, inputHash) => behind(() => redis.del(keyOf(tenant, inputHash))),
    tell: (one) => behind(() => redis.publish(CHANNEL, JSON.stringify(one))),
    get listening() {
      return listening
    },
    async close() {
      redis.disconnect()
      subscriber.disconnect()
    },
  }
}
