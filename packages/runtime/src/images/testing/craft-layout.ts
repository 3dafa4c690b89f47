import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Json } from '@bramble/protocol'
import { hostArchitecture } from '../oci-manifest.ts'

export const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex')

export interface CraftedImage {
  /** As they are stored: plain or compressed. */
  readonly layers: readonly Buffer[]
  /** The plain layers, where those stored are compressed. */
  readonly plainLayers?: readonly Buffer[]
  readonly config?: { Env?: string[]; WorkingDir?: string; User?: string }
  readonly architecture?: string
  readonly diffIds?: readonly string[]
  /** Changes to the manifest before it is written, so that it may lie. */
  readonly lie?: (manifest: { config: CraftedDescriptor; layers: CraftedDescriptor[] }) => void
}

export interface CraftedDescriptor {
  mediaType: string
  digest: string
  size: number
  platform?: { architecture: string; os: string }
}

/** An OCI layout made by hand in `directory`. */
export const craftLayout = async (directory: string) => {
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true })
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')

  const addBlob = async (data: string | Buffer, mediaType: string): Promise<CraftedDescriptor> => {
    await writeFile(join(directory, 'blobs/sha256', sha256(data)), data)
    return { mediaType, digest: `sha256:${sha256(data)}`, size: Buffer.byteLength(data) }
  }
  const addJson = (value: unknown, kind: string) =>
    addBlob(JSON.stringify(value), `application/vnd.oci.image.${kind}.v1+json`)

  return {
    addJson,
    blobPath: (digest: string) => join(directory, 'blobs/sha256', digest.slice(7)),
    async addImage(image: CraftedImage): Promise<CraftedDescriptor> {
      const plain = image.plainLayers ?? image.layers
      const config = await addJson(
        {
          architecture: image.architecture ?? hostArchitecture(),
          os: 'linux',
          config: image.config ?? {},
          rootfs: { type: 'layers', diff_ids: image.diffIds ?? plain.map((layer) => `sha256:${sha256(layer)}`) },
        },
        'config',
      )
      const layers: CraftedDescriptor[] = []
      for (const layer of image.layers) layers.push(await addBlob(layer, 'application/vnd.oci.image.layer.v1.tar'))
      const manifest = { schemaVersion: 2, config, layers }
      image.lie?.(manifest)
      return addJson(manifest, 'manifest')
    },
    writeIndex: (manifests: readonly Json[] | readonly CraftedDescriptor[]) =>
      writeFile(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests })),
  }
}
