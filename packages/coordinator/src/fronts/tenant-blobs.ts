import { type BlobSource, type BlobStore, collect } from '@bramble/blobs'
import {
  type BlobHash,
  BrambleError,
  blobHashSchema,
  type Job,
  type JobResult,
  type NodeId,
  type ResultContent,
} from '@bramble/protocol'
import { z } from 'zod'

/**
 * Who may read which blob of a network, kept as names in its store of blobs, so that coordinators that share the store share it.
 *
 * `tenants/<tenant>/<hash>`: a tenant that put it, or was shown a result that names it. `inputs/<hash>`: a client put it, so a
 * worker that knows the hash may read it. `results/<node>/<hash>`: that node put it; nobody may read it until a verdict shows it
 * to somebody. Each is for a time; what no name holds any more goes with the next `collect`.
 *
 * A node is never told what another one put: the answer to a `put` is the same whether the bytes are here, and a result may name
 * only what its own node put. Else a node that does no work could try what the others' result may be, and a result that names
 * some other tenant's blob would show it to its own.
 */
export interface TenantBlobs {
  putInput(tenant: string, source: BlobSource, options: PutBlob): Promise<StoredBlob>
  putResult(node: NodeId, source: BlobSource, options: PutBlob): Promise<StoredBlob>
  /** Throws `blob_not_found` where the tenant has none of that name. */
  requireOfTenant(tenant: string, hash: BlobHash): Promise<void>
  requireInput(hash: BlobHash): Promise<void>
  /** The tenant is about to be shown these jobs: from here on the blobs of their results are its own, too. */
  show(tenant: string, jobs: readonly Pick<Job, 'result'>[]): Promise<void>
  /** Of a result that a node sent: the first of its blobs that this node did not put with that size. */
  missing(node: NodeId, result: JobResult): Promise<BlobHash | undefined>
  collect(signal: AbortSignal): Promise<void>
}

export interface PutBlob {
  readonly expect?: BlobHash | undefined
  readonly sizeBytes?: number | undefined
  readonly signal: AbortSignal
}

export interface StoredBlob {
  readonly hash: BlobHash
  readonly sizeBytes: number
  readonly createdAt: string
  readonly expiresAt: string
}

const grantSchema = z.object({ expiresAtMs: z.number() })

/** How long a shared store may take to have what was put. */
const SHARED_MS = 20_000

/** Names that were written or found a while ago are not looked at again. */
const MAX_KNOWN = 16_384

/** The blobs that a result names. */
const blobsOf = ({ stdout, stderr, outputs }: JobResult): { hash: BlobHash; sizeBytes: number }[] => {
  const contents: ResultContent[] = [stdout, stderr]
  for (const output of Object.values(outputs)) if (!('error' in output)) contents.push(output)
  return contents.flatMap((content) =>
    'blob' in content ? [{ hash: content.blob, sizeBytes: content.sizeBytes }] : [],
  )
}

export const openTenantBlobs = (options: {
  readonly blobs: BlobStore
  readonly ttlMs: number
  readonly now: () => number
}): TenantBlobs => {
  const { blobs, ttlMs, now } = options
  const known = new Map<string, number>()

  const remember = (name: string, expiresAtMs: number): void => {
    if (known.size >= MAX_KNOWN) known.clear()
    known.set(name, expiresAtMs)
  }
  const grant = async (name: string): Promise<number> => {
    const expiresAtMs = now() + ttlMs
    await blobs.names.set(name, Buffer.from(JSON.stringify({ expiresAtMs })))
    remember(name, expiresAtMs)
    return expiresAtMs
  }
  const expiryOf = async (name: string): Promise<number> => {
    const remembered = known.get(name)
    if (remembered !== undefined) return remembered
    // Another coordinator may have set it a moment ago.
    const value = (await blobs.names.get(name)) ?? (await blobs.names.get(name, { reach: 'now' }))
    const { expiresAtMs } = value ? grantSchema.parse(JSON.parse(Buffer.from(value).toString())) : { expiresAtMs: 0 }
    if (expiresAtMs > now()) remember(name, expiresAtMs)
    return expiresAtMs
  }
  const require = async (name: string, hash: BlobHash): Promise<void> => {
    if ((await expiryOf(name)) <= now()) throw new BrambleError('blob_not_found', { detail: `\`${hash}\`` })
  }
  /** What is answered holds at every coordinator: the job, or the result, that names the blob may go to another one. */
  const shared = async (signal: AbortSignal): Promise<void> => {
    if (blobs.lower?.state.available !== true) return
    const late = AbortSignal.timeout(SHARED_MS)
    await blobs.settled({ signal: AbortSignal.any([signal, late]) }).catch((cause: unknown) => {
      if (!late.aborted || signal.aborted) throw cause
      throw new BrambleError('store_unavailable', { detail: 'the shared store is slow to take the blob', cause })
    })
  }
  /** The names are there before the lease of the bytes is let go: a collection never comes between. */
  const put = async (
    source: BlobSource,
    { expect, sizeBytes, signal }: PutBlob,
    names: (hash: BlobHash) => string[],
  ): Promise<StoredBlob> => {
    await using lease = await blobs.leases.acquire()
    const info = await blobs.put(source, { expect, sizeBytes, lease, signal })
    const createdAt = new Date(now()).toISOString()
    const expiries = await Promise.all(names(info.hash).map(grant))
    await shared(signal)
    const expiresAt = new Date(Math.max(...expiries)).toISOString()
    return { hash: info.hash, sizeBytes: info.sizeBytes, createdAt, expiresAt }
  }

  /** What has expired goes from the names; of the rest, what they hold. */
  async function* roots(signal: AbortSignal): AsyncGenerator<BlobHash> {
    for (const prefix of ['tenants/', 'inputs/', 'results/'])
      for await (const name of blobs.names.list(prefix, { signal })) {
        const hash = blobHashSchema.safeParse(name.slice(name.lastIndexOf('/') + 1))
        known.delete(name)
        if (!hash.success || (await expiryOf(name)) <= now()) await blobs.names.remove(name, { signal })
        else yield hash.data
      }
  }

  return {
    putInput: (tenant, source, each) => put(source, each, (hash) => [`tenants/${tenant}/${hash}`, `inputs/${hash}`]),
    putResult: (node, source, each) => put(source, each, (hash) => [`results/${node}/${hash}`]),
    requireOfTenant: (tenant, hash) => require(`tenants/${tenant}/${hash}`, hash),
    requireInput: (hash) => require(`inputs/${hash}`, hash),
    show: async (tenant, jobs) => {
      for (const { result } of jobs) {
        if (!result) continue
        for (const { hash } of blobsOf(result)) {
          const name = `tenants/${tenant}/${hash}`
          // In the second half of its time it is written anew: who looks at a result keeps it.
          if ((known.get(name) ?? 0) < now() + ttlMs / 2) await grant(name)
        }
      }
    },
    missing: async (node, result) => {
      for (const { hash, sizeBytes } of blobsOf(result)) {
        const isOwn = (await expiryOf(`results/${node}/${hash}`)) > now()
        if (!isOwn || (await blobs.stat(hash))?.sizeBytes !== sizeBytes) return hash
      }
      return undefined
    },
    collect: async (signal) => {
      await collect(blobs, roots(signal), { signal, now })
    },
  }
}

/** The blobs that a job's spec reads. */
export const inputBlobsOf = (files: Readonly<Record<string, unknown>> | undefined): BlobHash[] =>
  Object.values(files ?? {}).flatMap((file) =>
    typeof file === 'object' && file !== null && 'blob' in file ? [blobHashSchema.parse(file.blob)] : [],
  )
