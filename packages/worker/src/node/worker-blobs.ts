import { setTimeout as after } from 'node:timers/promises'
import type { Engine } from '@bramble/engine'
import { type BlobHash, BrambleError, DEFAULT_BLOB_TTL_MS, toBrambleError } from '@bramble/protocol'
import { backoffMs } from '../session/backoff.ts'
import type { SignedRequests } from '../session/signed-requests.ts'

/** Of inputs on their way here at once. */
const PARALLEL = 4
/** A result is not lost because its coordinator is away for a while. */
const MAX_UPLOAD_ATTEMPTS = 12

/** Blobs of jobs, between the coordinator and the node's store. */
export interface WorkerBlobs {
  /** Has them in the node's store, for the network's tenant. */
  fetch(hashes: readonly BlobHash[], signal: AbortSignal): Promise<void>
  /** Resolves when the coordinator has it, durably. `open` is called for each attempt. */
  upload(blob: UploadBlob, signal: AbortSignal): Promise<void>
}

export interface UploadBlob {
  readonly hash: BlobHash
  readonly sizeBytes: number
  open(): Uint8Array | AsyncIterable<Uint8Array>
}

export interface WorkerBlobsDeps {
  readonly engine: Pick<Engine, 'tenantBlobs'>
  readonly requests: SignedRequests
  readonly tenant: string
}

export const workerBlobs = ({ engine, requests, tenant }: WorkerBlobsDeps): WorkerBlobs => {
  const { tenantBlobs } = engine
  const coming = new Map<BlobHash, Promise<void>>()

  const isHere = async (hash: BlobHash): Promise<boolean> => {
    try {
      await tenantBlobs.stat(tenant, hash)
      return true
    } catch (error) {
      if (toBrambleError(error).code === 'blob_not_found') return false
      throw error
    }
  }

  const fetchOne = async (hash: BlobHash, signal: AbortSignal): Promise<void> => {
    const response = await requests.send({ method: 'GET', path: `worker/blobs/${hash}`, signal })
    if (response.body === null) throw new BrambleError('bad_response', { detail: `no bytes came for the blob ${hash}` })
    await tenantBlobs.put(tenant, response.body, { expect: hash, ttlMs: DEFAULT_BLOB_TTL_MS, origin: 'put', signal })
  }

  /** Several executions that want the same one wait for one of them; if that one leaves, another goes on. */
  const have = async (hash: BlobHash, signal: AbortSignal): Promise<void> => {
    while (!(await isHere(hash))) {
      signal.throwIfAborted()
      const other = coming.get(hash)
      if (other !== undefined) {
        await other.catch(() => {})
        continue
      }
      const mine = fetchOne(hash, signal)
      coming.set(hash, mine)
      try {
        await mine
      } finally {
        coming.delete(hash)
      }
    }
  }

  const uploadOnce = async ({ hash, sizeBytes, open }: UploadBlob, signal: AbortSignal): Promise<void> => {
    const body = { sha256: hash, sizeBytes, open }
    await requests.send({ method: 'PUT', path: `worker/blobs/${hash}`, body, signal })
  }

  return {
    async fetch(hashes, signal) {
      const queue = [...new Set(hashes)]
      const work = async (): Promise<void> => {
        for (let next = queue.shift(); next !== undefined; next = queue.shift()) await have(next, signal)
      }
      await Promise.all(Array.from({ length: Math.min(PARALLEL, queue.length) }, work))
    },
    async upload(blob, signal) {
      for (let failures = 0; ; failures++) {
        try {
          return await uploadOnce(blob, signal)
        } catch (error) {
          signal.throwIfAborted()
          const { retryable, retryAfterMs } = toBrambleError(error)
          if (!retryable || failures >= MAX_UPLOAD_ATTEMPTS) throw error
          await after(retryAfterMs ?? backoffMs(failures, Math.random), undefined, { signal })
        }
      }
    },
  }
}
