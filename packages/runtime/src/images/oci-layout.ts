import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { canonicalJson, type Json } from '@bramble/protocol'
import { sha256Hex } from './host-file.ts'
import { hostArchitecture } from './oci-manifest.ts'
import type { WrittenLayer } from './write-layer.ts'

/** The tag under which the one image of a layout written here is found. */
export const LAYOUT_TAG = 'image'

/** What of a config the unpacking and a command need. */
export interface LayoutConfig {
  readonly env: Readonly<Record<string, string>>
  readonly workdir: string
  readonly user: string
}

/** An empty layout in `directory`, to write layers into. */
export const startLayout = async (directory: string): Promise<void> => {
  await mkdir(join(directory, 'blobs', 'sha256'), { recursive: true, mode: 0o700 })
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
}

/** Puts a plain layer that stands at `path` among the blobs. */
export const addLayer = (directory: string, path: string, layer: WrittenLayer): Promise<void> =>
  rename(path, join(directory, 'blobs', 'sha256', layer.sha256))

/**
 * Writes config, manifest and index of a layout whose layers are there, and gives the digest of the manifest. The bytes
 * are canonical JSON without any time, so that equal layers and an equal config give an equal digest on every host.
 */
export const finishLayout = async (
  directory: string,
  layers: readonly WrittenLayer[],
  config: LayoutConfig,
): Promise<string> => {
  const put = async (value: Json, mediaType: string): Promise<{ [name: string]: Json }> => {
    const bytes = Buffer.from(canonicalJson(value))
    const hex = sha256Hex(bytes)
    await writeFile(join(directory, 'blobs', 'sha256', hex), bytes)
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length }
  }
  const configDescriptor = await put(
    {
      architecture: hostArchitecture(),
      os: 'linux',
      config: {
        Env: Object.entries(config.env)
          .map(([name, value]) => `${name}=${value}`)
          .sort(),
        User: config.user,
        WorkingDir: config.workdir,
      },
      rootfs: { type: 'layers', diff_ids: layers.map(({ sha256 }) => `sha256:${sha256}`) },
    },
    'application/vnd.oci.image.config.v1+json',
  )
  const manifest = await put(
    {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: configDescriptor,
      layers: layers.map(({ sha256, sizeBytes }) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest: `sha256:${sha256}`,
        size: sizeBytes,
      })),
    },
    'application/vnd.oci.image.manifest.v1+json',
  )
  const annotations = { 'org.opencontainers.image.ref.name': LAYOUT_TAG }
  await writeFile(
    join(directory, 'index.json'),
    canonicalJson({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
  )
  return String(manifest.digest)
}
