import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { chunksOf, openRegularFile, readSmallFile, sha256Hex } from './host-file.ts'
import { imageInvalid } from './image-errors.ts'
import {
  choose,
  type Descriptor,
  isIndex,
  MAX_MANIFEST_BYTES,
  type Manifest,
  parseIndex,
  parseManifest,
} from './oci-manifest.ts'

const MAX_INDEX_DEPTH = 3

/** Where the blobs of an image are, as files named by their digest. */
export type BlobPath = (digest: string) => string

/** An image whose manifest is known; its blobs are not looked at yet. */
export interface ManifestOf {
  readonly digest: string
  readonly manifest: Manifest
  readonly blobPath: BlobPath
}

/** The image of an OCI layout directory (image-layout.md of the OCI image specification) for this host. */
export const manifestOfLayout = async (directory: string): Promise<ManifestOf> => {
  const blobPath: BlobPath = (digest) => join(directory, 'blobs', 'sha256', digest.slice('sha256:'.length))
  let bytes = await readSmallFile(join(directory, 'index.json'), MAX_MANIFEST_BYTES)
  for (let depth = 0; depth < MAX_INDEX_DEPTH; depth++) {
    const chosen = choose(parseIndex(bytes).manifests)
    bytes = await readBlob(blobPath, chosen)
    if (!isIndex(bytes)) return { digest: chosen.digest, manifest: parseManifest(bytes), blobPath }
  }
  throw imageInvalid(`its index leads through more than ${MAX_INDEX_DEPTH} others`)
}

/** The image of a directory in skopeo's `dir` form: `manifest.json` as the registry keeps it, and blobs beside it. */
export const manifestOfDir = async (directory: string): Promise<ManifestOf> => {
  const bytes = await readSmallFile(join(directory, 'manifest.json'), MAX_MANIFEST_BYTES)
  return {
    digest: `sha256:${sha256Hex(bytes)}`,
    manifest: parseManifest(bytes),
    blobPath: (digest) => join(directory, digest.slice('sha256:'.length)),
  }
}

/** A small blob, checked against its descriptor. */
export const readBlob = async (blobPath: BlobPath, descriptor: Descriptor): Promise<Buffer> => {
  const bytes = await readSmallFile(blobPath(descriptor.digest), MAX_MANIFEST_BYTES)
  if (bytes.length !== descriptor.size) throw wrongSize(descriptor, bytes.length)
  if (`sha256:${sha256Hex(bytes)}` !== descriptor.digest) throw wrongDigest(descriptor)
  return bytes
}

/** A blob as a stream that throws `image_invalid` at its end, or past its size, when it is not what was promised. */
export async function* streamBlob(
  blobPath: BlobPath,
  descriptor: Descriptor,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of chunksOf(await openRegularFile(blobPath(descriptor.digest), { noFollow: true }), signal)) {
    bytes += chunk.length
    if (bytes > descriptor.size) throw wrongSize(descriptor, bytes)
    hash.update(chunk)
    yield chunk
  }
  if (bytes !== descriptor.size) throw wrongSize(descriptor, bytes)
  if (`sha256:${hash.digest('hex')}` !== descriptor.digest) throw wrongDigest(descriptor)
}

const wrongSize = ({ digest, size }: Descriptor, bytes: number) =>
  imageInvalid(`its blob ${digest} has ${bytes} bytes or more where the manifest says ${size}`)

const wrongDigest = ({ digest }: Descriptor) => imageInvalid(`its blob ${digest} has other bytes than its digest says`)
