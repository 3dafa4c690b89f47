import { type BlobStore, contentWriter, type Lease } from '@bramble/blobs'
import { canonicalJson, type Json, MANIFEST_VERSION, type SnapshotManifest } from '@bramble/protocol'
import type { BytePath, LayerEntry } from '@bramble/runtime'
import type { StoreSealOptions } from '../store-seal.ts'

/** An image that has nothing. */
export const noImage = { digest: 'sha256:none', rootfs: '/nonexistent' }

export const config: SnapshotManifest['config'] = {
  env: {},
  cpus: 1,
  memoryMb: 64,
  diskMb: 200,
  pids: 16,
  network: 'none',
}

export const about: Pick<StoreSealOptions, 'image' | 'takenAt' | 'config'> = {
  image: noImage,
  takenAt: '2026-01-01T00:00:00.000Z',
  config,
}

export const all = async <T>(source: AsyncIterable<T>): Promise<T[]> => {
  const items: T[] = []
  for await (const item of source) items.push(item)
  return items
}

/** Versions tell lineages apart, and are of one host. */
export const withoutVersions = (entries: readonly LayerEntry[]): LayerEntry[] =>
  entries.map((entry) => {
    const { version: _, ...rest } = { version: undefined, ...entry }
    return rest as LayerEntry
  })

/** A manifest over whatever lines. */
export const storeLines = async (
  store: BlobStore,
  lease: Lease,
  lines: readonly unknown[],
  totals: { readonly entries?: number; readonly sizeBytes?: number } = {},
): Promise<SnapshotManifest> => {
  const text = lines.map((line) => `${typeof line === 'string' ? line : canonicalJson(line as Json)}\n`).join('')
  const writer = contentWriter({ store, lease })
  const tree = await writer.add(Buffer.from(text))
  await writer.finish()
  const { entries = lines.length, sizeBytes = 0 } = totals
  return {
    version: MANIFEST_VERSION,
    kind: 'bramble.snapshot',
    takenAt: about.takenAt,
    image: { digest: noImage.digest },
    filesystem: { tree: tree(), entries, sizeBytes },
    config,
  }
}

/** The content of some bytes, stored. */
export const storeBytes = async (store: BlobStore, lease: Lease, text: string) => {
  const writer = contentWriter({ store, lease })
  const content = await writer.add(Buffer.from(text))
  await writer.finish()
  return content()
}

export const pathsOf = (entries: readonly LayerEntry[]): BytePath[] => entries.map(({ path }) => path)
