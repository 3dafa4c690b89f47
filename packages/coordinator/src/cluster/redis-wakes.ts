import { BrambleError } from '@bramble/protocol'
import { Redis } from 'ioredis'

/** Word between coordinators that the writer changed. Nothing is in Redis alone: without it, they look for themselves. */
export interface RedisWakes {
  /** Nobody waits for it. */
  wake(): void
  close(): Promise<void>
}

const CHANNEL = 'bramble:writer'

/** `heard` is called for each word, and whenever one may have been missed. */
export const openRedisWakes = (url: string, heard: () => void): RedisWakes => {
  if (!URL.canParse(url) || !['redis:', 'rediss:'].includes(new URL(url).protocol))
    throw new BrambleError('invalid_request', { detail: 'the URL of Redis begins with redis:// or rediss://' })
  const connect = (): Redis => {
    const redis = new Redis(url, {
      connectTimeout: 2_000,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      autoResubscribe: false,
      retryStrategy: (times) => Math.min(5_000, 100 * 2 ** Math.min(times, 10)),
    })
    // An event without a listener would end the process.
    redis.on('error', () => {})
    return redis
  }
  const redis = connect()
  const subscriber = connect()
  subscriber.on('ready', () => {
    subscriber.subscribe(CHANNEL).then(heard, () => subscriber.disconnect(true))
  })
  subscriber.on('message', () => heard())
  return {
    wake: () => {
      if (redis.status === 'ready') redis.publish(CHANNEL, '').catch(() => {})
    },
    async close() {
      redis.disconnect()
      subscriber.disconnect()
    },
  }
}
