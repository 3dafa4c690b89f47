import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { BlobStore } from '@bramble/blobs'
import {
  type BlobHash,
  blobHashSchema,
  cacheNameSchema,
  canonicalJson,
  contentSchema,
  type Json,
} from '@bramble/protocol'
import type { Abortable, LayerFiles } from '@bramble/runtime'
import { z } from 'zod'
import { tenantSegment } from '../cache/names.ts'
import { parseJsonValue, readJsonBlob } from '../json-blob.ts'
import { layerSource } from '../snapshots/content/materialize.ts'
import { readTreeLines } from '../snapshots/content/read-tree.ts'
import { storeTree } from '../snapshots/content/store-tree.ts'
import type { Generation, Volumes } from '../volumes/volumes.ts'

const CACHE_NAMES = 'caches/'
const LEASE_MS = 24 * 3_600_000
/** A larger one stays on its node: it would be read whole for every change. */
const SHARED_BYTES_MAX = 2 * 1024 ** 3

const manifestSchema = z.strictObject({
  version: z.literal(1),
  kind: z.literal('bramble.cache'),
  tree: contentSchema,
})
const pointerSchema = z.strictObject({
  manifest: blobHashSchema,
  generation: z.string().regex(/^[a-z0-9_]{1,63}$/),
  bytes: z.number().int().min(0).max(SHARED_BYTES_MAX),
})
type Pointer = z.infer<typeof pointerSchema>

export interface CacheSharing {
  readonly blobs: BlobStore
  readonly files: LayerFiles
  readonly volumes: Pick<Volumes, 'generations' | 'adopt'>
  readonly node: string
  /** Generations of others are written there, and removed again. */
  readonly stagingDirectory: string
}

/** `caches/<tenant>/<cache>/<node>` */
const nameOf = (tenant: string, cache: string, node: string): string => `${CACHE_NAMES}${tenant}/${cache}/${node}`

const pointerAt = async (blobs: BlobStore, name: string, options: Abortable): Promise<Pointer | undefined> =>
  parseJsonValue(await blobs.names.get(name, options), pointerSchema)

/** Puts a generation into the store for the tenant's sandboxes on other nodes, unless it is there. */
export const shareGeneration = async (
  { blobs, files, node }: CacheSharing,
  { tenant, cache, name: generation, directory, bytes }: Generation,
  { signal }: Abortable = {},
): Promise<{ readonly uploaded: Promise<void> } | undefined> => {
  const name = nameOf(tenant, cache, node)
  // The tenant has to be told by the name.
  if (bytes > SHARED_BYTES_MAX || tenantSegment(tenant) !== tenant) return undefined
  if ((await pointerAt(blobs, name, { signal }))?.generation === generation) return undefined
  await using undo = new AsyncDisposableStack()
  const lease = undo.use(await blobs.leases.acquire({ ttlMs: LEASE_MS }))
  const { tree } = await storeTree({
    store: blobs,
    lease,
    entries: files.entries(directory, { plain: true, signal }),
    read: (path) => files.read(directory, path, { signal }),
    signal,
  })
  const manifest = manifestSchema.parse({ version: 1, kind: 'bramble.cache', tree })
  const text = Buffer.from(canonicalJson(manifest as unknown as Json))
  const { hash } = await blobs.put(text, { lease, temperature: 'cold', signal })
  const pointer: Pointer = { manifest: hash, generation, bytes }
  await blobs.names.set(name, Buffer.from(JSON.stringify(pointer)), { signal })
  const held = undo.move()
  const settle = async (): Promise<void> => {
    await using _held = held
    await blobs.settled({ signal })
  }
  return { uploaded: settle() }
}

export interface SharedCache extends Pointer {
  readonly tenant: string
  readonly cache: Generation['cache']
  readonly node: string
}

/** What other nodes have put there. */
export async function* sharedCaches(
  { blobs, node: own }: Pick<CacheSharing, 'blobs' | 'node'>,
  options: Abortable = {},
): AsyncGenerator<SharedCache, void, undefined> {
  for await (const name of blobs.names.list(CACHE_NAMES, options)) {
    const [, tenant, cacheName, node] = name.split('/')
    const cache = cacheNameSchema.safeParse(cacheName)
    if (tenant === undefined || node === undefined || node === own || !cache.success) continue
    const pointer = await pointerAt(blobs, name, options)
    if (pointer) yield { ...pointer, tenant, cache: cache.data, node }
  }
}

/** Adds what another node's sandboxes downloaded to the tenant's cache here; each file is checked as if one of here had. */
export const adoptCache = async (
  { blobs, files, volumes, stagingDirectory }: CacheSharing,
  { tenant, cache, manifest, bytes }: SharedCache,
  { signal }: Abortable = {},
): Promise<number> => {
  const { tree } = await readJsonBlob(blobs, manifest, manifestSchema, { signal })
  await mkdir(stagingDirectory, { recursive: true, mode: 0o700 })
  const staging = await mkdtemp(join(stagingDirectory, 'cache-'))
  try {
    // Twice its bytes: for what files take beside their content.
    await files.write(
      staging,
      { ...layerSource(blobs, tree, { signal }), diskBytes: 2 * bytes + 1024 ** 2 },
      { signal },
    )
    return await volumes.adopt(tenant, cache, staging)
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** Every blob that the shared caches need. */
export async function* cacheReferences(
  blobs: BlobStore,
  manifest: BlobHash,
  options: Abortable = {},
): AsyncGenerator<BlobHash, void, undefined> {
  yield manifest
  const { tree } = await readJsonBlob(blobs, manifest, manifestSchema, options)
  for (const { blob } of tree.pieces) yield blob
  for await (const { entry } of readTreeLines(blobs, tree, options))
    if (entry.type === 'file') for (const { blob } of entry.content.pieces) yield blob
}
