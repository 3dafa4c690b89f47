import { chmod, chown, lstat, lutimes } from 'node:fs/promises'
import type { BlobStore, NameOptions } from '@bramble/blobs'
import { BrambleError, blobHashSchema, canonicalJson, contentSchema, imageSchema, type Json } from '@bramble/protocol'
import type { Abortable, ImageStore, LayerFiles, LocalImage } from '@bramble/runtime'
import { z } from 'zod'
import { parseJsonValue, readJsonBlob } from '../json-blob.ts'
import { layerSource } from '../snapshots/content/materialize.ts'
import { readTreeLines } from '../snapshots/content/read-tree.ts'
import { storeTree } from '../snapshots/content/store-tree.ts'

const IMAGE_NAMES = 'images/'
/** How long what was not uploaded stays when the process ends. */
const LEASE_MS = 24 * 3_600_000
const MAX_IMAGE_FILES_BYTES = 64 * 1024 ** 3

/** An image in the store, as canonical JSON: what it is, and its root filesystem as a tree. */
const manifestSchema = z.strictObject({
  version: z.literal(1),
  kind: z.literal('bramble.image'),
  image: imageSchema.pick({ digest: true, source: true, config: true, sizeBytes: true }),
  /** Names it had where it came from. */
  names: z.array(z.string().max(256)).max(256),
  root: z.strictObject({
    mode: z.number().int().min(0).max(0o7777),
    uid: z.number().int().min(0),
    gid: z.number().int().min(0),
    modifiedMs: z.number(),
  }),
  tree: contentSchema,
})
export type ImageManifest = z.infer<typeof manifestSchema>

/** The value of the name `images/<digest>`. */
const pointerSchema = z.strictObject({ manifest: blobHashSchema, sizeBytes: z.number().int().min(0) })
export type ImagePointer = z.infer<typeof pointerSchema>

const nameOf = (digest: string): string => `${IMAGE_NAMES}${digest.slice('sha256:'.length)}`

export interface ImageSharing {
  readonly blobs: BlobStore
  readonly images: ImageStore
  readonly files: LayerFiles
}

/** Where the store has the image; undefined: it does not, or what it says is no such thing. */
export const findShared = async (
  { blobs }: ImageSharing,
  digest: string,
  options: NameOptions = {},
): Promise<ImagePointer | undefined> => {
  return parseJsonValue(await blobs.names.get(nameOf(digest), options), pointerSchema)
}

/** Every image that the store has. */
export async function* sharedImages(
  blobs: BlobStore,
  options: Abortable = {},
): AsyncGenerator<ImagePointer, void, undefined> {
  for await (const name of blobs.names.list(IMAGE_NAMES, options)) {
    const pointer = parseJsonValue(await blobs.names.get(name, options), pointerSchema)
    if (pointer) yield pointer
  }
}

/**
 * Puts an image into the store, for nodes that do not have it, unless it is there. A lease holds it here until `uploaded`
 * resolves; after that only the shared tier needs it.
 */
export const shareImage = async (
  sharing: ImageSharing,
  image: LocalImage,
  { signal }: Abortable = {},
): Promise<{ readonly newStoredBytes: number; readonly uploaded: Promise<void> } | undefined> => {
  const { blobs, files } = sharing
  if (await findShared(sharing, image.digest, { signal })) return undefined
  await using undo = new AsyncDisposableStack()
  const lease = undo.use(await blobs.leases.acquire({ ttlMs: LEASE_MS }))
  const { tree, stats } = await storeTree({
    store: blobs,
    lease,
    entries: files.entries(image.rootfs, { plain: true, signal }),
    read: (path) => files.read(image.rootfs, path, { signal }),
    maxFilesBytes: MAX_IMAGE_FILES_BYTES,
    signal,
  })
  const { digest, source, config, sizeBytes, names } = image
  const { mode, uid, gid, mtimeMs } = await lstat(image.rootfs)
  const manifest: ImageManifest = {
    version: 1,
    kind: 'bramble.image',
    image: { digest, source, config, sizeBytes },
    names,
    root: { mode: mode & 0o7777, uid, gid, modifiedMs: Math.trunc(mtimeMs) },
    tree,
  }
  const bytes = Buffer.from(canonicalJson(manifestSchema.parse(manifest) as unknown as Json))
  const { hash } = await blobs.put(bytes, { lease, sizeBytes: bytes.length, temperature: 'cold', signal })
  const pointer: ImagePointer = { manifest: hash, sizeBytes }
  await blobs.names.set(nameOf(digest), Buffer.from(JSON.stringify(pointer)), { signal })
  const held = undo.move()
  const settle = async (): Promise<void> => {
    await using _held = held
    await blobs.settled({ signal })
  }
  return { newStoredBytes: stats.newStoredBytes, uploaded: settle() }
}

/** The image, from the store where this node does not have it. Rejects with `image_not_found` where nobody has. */
export const obtainImage = async (
  sharing: ImageSharing,
  digest: string,
  { signal }: Abortable = {},
): Promise<LocalImage> => {
  const { blobs, images, files } = sharing
  const here = images.list().find((image) => image.digest === digest)
  if (here) return here
  const pointer = blobs.lower && (await findShared(sharing, digest, { reach: 'now', signal }))
  if (!pointer) return images.resolve(digest)
  const manifest = await readImageManifest(blobs, pointer, { signal })
  if (manifest.image.digest !== digest)
    throw new BrambleError('image_not_found', { detail: `what the store has as ${digest} is another image` })
  const { root, tree, image } = manifest
  const fill = async (rootfs: string, { signal: filling }: { readonly signal: AbortSignal }): Promise<void> => {
    const source = layerSource(blobs, tree, { signal: filling })
    await files.write(rootfs, { ...source, diskBytes: MAX_IMAGE_FILES_BYTES }, { signal: filling })
    await chown(rootfs, root.uid, root.gid)
    await chmod(rootfs, root.mode)
    await lutimes(rootfs, new Date(root.modifiedMs), new Date(root.modifiedMs))
  }
  const isFree = (name: string): boolean => !images.list().some(({ names }) => names.includes(name))
  // A name that leads to another image here goes on doing so.
  const [first, ...others] = manifest.names.filter(isFree)
  const options = { ...(signal && { signal }) }
  await images.import({ kind: 'unpacked', image, fill }, { name: first, ...options })
  for (const name of others) await images.import({ kind: 'unpacked', image, fill }, { name, ...options })
  return images.resolve(digest)
}

export const readImageManifest = (
  blobs: BlobStore,
  { manifest }: ImagePointer,
  options: Abortable = {},
): Promise<ImageManifest> => readJsonBlob(blobs, manifest, manifestSchema, options)

/** Every blob that an image in the store needs, its manifest first; one may come several times. */
export async function* imageReferences(
  blobs: BlobStore,
  pointer: ImagePointer,
  options: Abortable = {},
): AsyncGenerator<z.infer<typeof blobHashSchema>, void, undefined> {
  yield pointer.manifest
  const { tree } = await readImageManifest(blobs, pointer, options)
  for (const { blob } of tree.pieces) yield blob
  for await (const { entry } of readTreeLines(blobs, tree, options))
    if (entry.type === 'file') for (const { blob } of entry.content.pieces) yield blob
}
