import type { BlobSource, BlobStream, GetOptions } from '@bramble/blobs'
import type { BlobHash, Quota, TenantBlob } from '@bramble/protocol'

/**
 * Blobs that a tenant may name. The store knows blobs by their hash alone, and so would anyone who knows a hash; a tenant has
 * only those that it put, or that a result of its own left, until they expire or it removes them. Of others it is told
 * nothing, not even whether they are there.
 *
 * What a tenant has is known to the node on which it came to have it. A blob goes when no tenant has it and nothing else needs
 * it, with the next collection.
 *
 * Errors: `blob_not_found`, `blob_corrupt` (the bytes are not those of `expect`), `quota_exceeded`, and those of stores.
 */
export interface TenantBlobs {
  /** Stores it, and when it resolves the tenant has it, durably. Putting what it has begins its time anew. */
  put(tenant: string, source: BlobSource, options: PutTenantBlob): Promise<TenantBlob>
  get(tenant: string, hash: BlobHash, options?: GetOptions): Promise<BlobStream>
  stat(tenant: string, hash: BlobHash): Promise<TenantBlob>
  /** By hash. */
  list(query: { tenant: string; limit: number; cursor?: string | undefined }): Promise<{
    items: TenantBlob[]
    nextCursor: string | null
  }>
  /** The tenant has it no longer. */
  remove(tenant: string, hash: BlobHash): Promise<void>
  /** A result of the tenant names them; they are in the store. What it has longer by itself stays so. */
  grant(tenant: string, blobs: readonly { hash: BlobHash; sizeBytes: number }[], expiresAtMs: number): Promise<void>
  /**
   * Holds blobs of the tenant for as long as they are used, whatever expires meanwhile. Rejects with `blob_not_found` where it
   * does not have all of them.
   */
  hold(tenant: string, hashes: readonly BlobHash[]): Promise<AsyncDisposable>
  /** What a collection must leave. */
  roots(): AsyncIterable<BlobHash>
  close(): Promise<void>
}

export interface PutTenantBlob {
  readonly ttlMs: number
  readonly origin?: TenantBlob['origin'] | undefined
  readonly sizeBytes?: number | undefined
  readonly expect?: BlobHash | undefined
  readonly quota?: Pick<Quota, 'storageMb'> | undefined
  readonly signal?: AbortSignal | undefined
}
