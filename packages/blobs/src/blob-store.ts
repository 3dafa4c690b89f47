import type { BlobHash, StoreStats } from '@bramble/protocol'

/**
 * Bytes named by their SHA-256, and small mutable names that point at them.
 *
 * Blobs. `put` computes the name itself; a blob is readable under it only when it is whole and on stable storage, so there
 * is no half blob to see, whatever is killed when. Putting what is there already stores nothing. `get` verifies: bytes
 * that do not have the name they were asked by end the stream with `blob_corrupt` before its last piece, and a store that has
 * another copy (a tier below) heals the damaged one. A blob is never changed.
 *
 * Names. A name (`results/acme/3f…`) holds a small value, replaced as a whole; the last `set` wins. They are what is
 * shared between nodes beside blobs: registries, results.
 *
 * Leases and collection. A blob stays as long as it is *live*: held by a lease, or reached by the mark of a collection.
 * `put` and `hold` under a lease protect from that moment on, also against a collection that has begun already; one that
 * is put without a lease is safe for `graceMs`. Leases survive a crash of the process until they expire.
 *
 * Sizes are of the content; `storedBytes` is what it takes after its codec.
 *
 * Abort. An aborted `put` leaves nothing; an aborted `get` ends its stream with the signal's reason.
 *
 * Errors: `blob_not_found`, `blob_corrupt` (named, with the tier), `store_unavailable` (retryable: the disk or S3 does
 * not answer, or refuses), `store_full`, `store_read_only`.
 */
export interface BlobStore extends AsyncDisposable {
  /** `memory`, `fs`, `s3`, `tiered`. For people and metrics. */
  readonly name: string
  /** Stores the bytes. With `expect` the name is known: other bytes are refused with `blob_corrupt`, and nothing is stored. */
  put(source: BlobSource, options?: PutOptions): Promise<BlobInfo>
  /** Whole, or a range of its content, verified. Rejects with `blob_not_found` at once. */
  get(hash: BlobHash, options?: GetOptions): Promise<BlobStream>
  /** Without reading it. Undefined: it is not there. */
  stat(hash: BlobHash, options?: Abortable): Promise<BlobInfo | undefined>
  /** In no order, and without reading any: what a listing of the store tells. Of `tiered`: what the local tier has. */
  list(options?: Abortable): AsyncIterable<ListedBlob>
  /**
   * False: it was left, by `idleSinceMs`. One that is not there is removed already. For collections; whoever else calls it
   * knows that nobody needs the blob. With `idleSinceMs`, `tiered` removes the local copy alone: other nodes share the rest.
   */
  remove(hash: BlobHash, options?: RemoveOptions): Promise<boolean>
  readonly names: NameStore
  readonly leases: Leases
  /** What it holds and what waits, from counts that it keeps. Absent: whoever wants to know adds up `list`. */
  stats?(options?: Abortable): Promise<StoreStats>
  /** Absent where there is no lower tier. */
  readonly lower?: LowerTier
  /** Resolves when everything that was put is where it is to be in the end (of `tiered`: in the lower tier, too). */
  settled(options?: Abortable): Promise<void>
  close(): Promise<void>
}

/** What one may want to know, and to do, where a store has another one behind it. */
export interface LowerTier {
  /** For people: without secrets. */
  readonly label: string
  /** Whether it answered last time, and why not. */
  readonly state: { readonly available: true } | { readonly available: false; readonly reason: string }
  /** Whether `get` would need it. */
  isLocal(hash: BlobHash): Promise<boolean>
  /** Brings a blob here. Undefined: it was here. Rejects as `get` does. */
  prefetch(hash: BlobHash): Promise<BlobInfo | undefined>
  /** Reads every blob that is here, and its copy there; heals either from the other. */
  verify(options?: Abortable): Promise<Verification>
}

export interface Verification {
  readonly blobs: number
  /** Copies here that were damaged, and were replaced. */
  readonly healedLocal: readonly BlobHash[]
  /** Copies there that were damaged or gone, and are queued to be put there again. */
  readonly healedShared: readonly BlobHash[]
  /** Damaged here, and not to be had from there. */
  readonly lost: readonly BlobHash[]
}

export interface Abortable {
  readonly signal?: AbortSignal | undefined
}

/** Its pieces are not changed by anybody until `put` is done. It is closed (`return`) however `put` ends. */
export type BlobSource = Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>

export interface PutOptions extends Abortable {
  readonly expect?: BlobHash | undefined
  /** Where it is known; a source of another length is refused with `blob_corrupt`. */
  readonly sizeBytes?: number | undefined
  readonly lease?: Lease | undefined
  /** `hot`: will be read soon and often (LZ4); `cold`: is kept (zstd). What does not compress is stored as it is. Default `hot`. */
  readonly temperature?: Temperature | undefined
}

export type Temperature = 'hot' | 'cold'
export type Codec = 'none' | 'lz4' | 'zstd'

export interface GetOptions extends Abortable {
  /** `end` is exclusive. Rejects with `range_not_satisfiable` unless 0 <= start <= end <= size. */
  readonly range?: { readonly start: number; readonly end?: number | undefined } | undefined
}

export interface BlobInfo {
  readonly hash: BlobHash
  readonly sizeBytes: number
  readonly storedBytes: number
  readonly codec: Codec
}

export interface ListedBlob {
  readonly hash: BlobHash
  readonly storedBytes: number
  /** When it was last put, put again, or held: milliseconds since 1970. */
  readonly touchedMs: number
}

export interface RemoveOptions extends Abortable {
  /** Leaves a blob that was touched at that time or later, or that a lease holds, with no gap in which either could happen. */
  readonly idleSinceMs?: number | undefined
}

/** To be read once, or given up by `return()`, which frees what it holds. Its pieces belong to the reader. */
export interface BlobStream extends AsyncIterable<Uint8Array> {
  readonly info: BlobInfo
}

/**
 * Segments of `a-z A-Z 0-9 . _ -` (1 to 120 characters, not `.` or `..`) joined by `/`; at most 512 characters. Other names are
 * `invalid_request`. Values: `maxNameValueBytes`.
 */
export interface NameStore {
  set(name: string, value: Uint8Array, options?: Abortable): Promise<void>
  get(name: string, options?: NameOptions): Promise<Uint8Array | undefined>
  remove(name: string, options?: Abortable): Promise<void>
  /** Names that begin with `prefix`, in order of their characters. */
  list(prefix: string, options?: NameOptions): AsyncIterable<string>
}

export interface NameOptions extends Abortable {
  /**
   * For stores that share names with other nodes. `recent` (the default): what they set is seen after some seconds at the
   * latest, and a name that was asked for within them costs nothing. `now`: they are asked. `local`: they are not.
   */
  readonly reach?: 'local' | 'recent' | 'now' | undefined
}

/** Holds blobs against collections until it is released, or expires. */
export interface Lease extends AsyncDisposable {
  readonly id: string
  /**
   * Protects blobs that are there already. Rejects with `blob_not_found` when one is not: it must be put again. `here`: one that
   * only a lower tier has is not there, and that tier is not asked: for who has the bytes at hand.
   */
  hold(hashes: Iterable<BlobHash>, options?: { readonly here?: boolean | undefined }): Promise<void>
  release(): Promise<void>
}

export interface Leases {
  /** It protects for `ttlMs` (default 1 h), and is renewed by itself while this process lives. */
  acquire(options?: { readonly ttlMs?: number | undefined }): Promise<Lease>
  /** What every lease that has not expired holds, of earlier processes too. */
  held(): AsyncIterable<BlobHash>
}
