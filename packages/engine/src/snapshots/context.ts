import type { BlobStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import type { ImageStore, LocalImage, Runtime } from '@bramble/runtime'
import type { Kysely } from 'kysely'
import type { EngineLimits } from '../engine.ts'
import type { History } from '../history.ts'
import type { OpenInstances } from '../instances/open-instances.ts'
import type { Clock, EngineNotice, Log } from '../options.ts'
import type { SnapshotTables } from '../store/snapshot-tables.ts'

export interface SnapshotsDeps {
  readonly db: Kysely<SnapshotTables>
  readonly blobs: BlobStore
  readonly runtimes: readonly Runtime[]
  readonly images: ImageStore
  /** The image, from the store where this node lacks it. Rejects with `image_not_found`. */
  readonly obtainImage: (digest: string, options?: { readonly signal?: AbortSignal }) => Promise<LocalImage>
  /** Other nodes may need the image from now on. */
  readonly needImage: (digest: string) => void
  readonly instances: OpenInstances
  readonly executions: Pick<History, 'find'>
  readonly limits: EngineLimits
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  /** What is being imported lies there until all of it is verified. */
  readonly stagingDirectory: string
  /** Blobs that others than snapshots need. */
  readonly extraRoots: readonly (() => AsyncIterable<BlobHash>)[]
  /** Whether the node has time for what can wait. */
  readonly isIdle: () => boolean
}

/** What the parts of `Snapshots` share. */
export interface Context extends SnapshotsDeps {
  readonly closing: AbortController
  /** Seals in use, by name: they are not removed meanwhile. */
  readonly held: Map<string, number>
  /** Seals that are being written from blobs, by what they will be. */
  readonly writing: Map<string, Promise<string>>
  /** Waits until what was put is in the lower tier. */
  sharing: Promise<void> | undefined
}

export const timeText = (ms: number): string => new Date(ms).toISOString()
