import { hash, randomBytes } from 'node:crypto'
import type { ApiKey } from '@bramble/protocol'
import type { Caller } from './auth.ts'
import { tokenBucket } from './rate-limit.ts'

/** A new API key: 256 random bits. */
export const newKeyText = (): string => `bramble_${randomBytes(32).toString('base64url')}`

/**
 * What is kept of a key. A plain SHA-256 is enough for what cannot be guessed, and makes the look-up by it tell nothing by its
 * time.
 */
export const hashOfKey = (text: string): string => hash('sha256', text, 'hex')

/** Who makes the requests that carry this key; with a bucket of its own where the key has a rate. */
export const callerOf = ({ id, tenant, scopes, quota }: ApiKey): Caller => ({
  tenant,
  keyId: id,
  scopes,
  quota,
  bucket: quota.requestsPerSecond === undefined ? undefined : tokenBucket(quota.requestsPerSecond),
})
