import type { BlobHash, Content } from '@bramble/protocol'
import type { Abortable, BlobSource, BlobStore, Lease, Temperature } from './blob-store.ts'

/**
 * Content of any size as blobs: cut where its own bytes say (content-defined chunking), so that a change stores what is
 * around it and no more. Small contents of one group are packed together.
 */
export interface ContentWriter {
  /** Cuts, hashes and stores. The descriptor is complete when this resolves, but for what is packed: see `finish`. */
  add(source: BlobSource, options?: Abortable): Promise<() => Content>
  /** Stores the pack that is not full. After it, every function that `add` gave returns its descriptor. */
  finish(): Promise<ContentTotals>
}

export interface ContentTotals {
  readonly contents: number
  readonly sizeBytes: number
  /** Of blobs that were not there before. */
  readonly newBlobs: number
  readonly newStoredBytes: number
}

export interface ContentWriterOptions {
  readonly store: BlobStore
  readonly lease: Lease
  readonly temperature?: Temperature
  /**
   * Where bytes of this hash are stored already (an earlier tree knows): small contents, which packs would otherwise hold anew
   * as soon as their neighbours change. What it names is held; where that is gone, the content is stored again.
   */
  readonly known?: (sha256: BlobHash, sizeBytes: number) => Content | undefined
}

/**
 * Reads one content; the bytes are verified against its `sha256`, and the last of them come only then. A descriptor that
 * cannot be true ends in `blob_corrupt`, before more than it tells is read.
 */
export type ReadContent = (store: BlobStore, content: Content, options?: Abortable) => AsyncIterable<Uint8Array>
