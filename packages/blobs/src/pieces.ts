import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { type BlobHash, BrambleError, LIMITS } from '@bramble/protocol'
import type { BlobInfo, BlobSource, BlobStream, GetOptions, PutOptions } from './blob-store.ts'

/** What is hashed, compressed or handed on at once: 256 KiB take a tenth of a millisecond to hash. */
export const maxPieceBytes = 256 * 1024

/** Bytes in memory take turns with the rest of the process after this many. */
const turnBytes = 2 * 1024 * 1024

/**
 * The bytes of a source in pieces of 1 byte to `maxPieceBytes`. It ends with the signal's reason as soon as that is
 * aborted, and closes the source however it ends.
 */
export async function* piecesOf(source: BlobSource, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted()
  let sinceTurn = 0
  for await (const piece of source instanceof Uint8Array ? [source] : abortable(source, signal)) {
    for (let at = 0; at < piece.length; at += maxPieceBytes) {
      const part = piece.subarray(at, at + maxPieceBytes)
      yield part
      signal?.throwIfAborted()
      sinceTurn += part.length
      if (sinceTurn < turnBytes) continue
      sinceTurn = 0
      await setImmediate()
    }
  }
}

/** Like the source, but a reader does not wait for its next piece once the signal is aborted. */
export async function* abortable<T>(
  source: AsyncIterable<T> | Iterable<T>,
  signal?: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  if (!signal) {
    yield* source
    return
  }
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  let giveUp: ((reason: unknown) => void) | undefined
  const abort = (): void => giveUp?.(signal.reason)
  signal.addEventListener('abort', abort)
  let open = true
  try {
    signal.throwIfAborted()
    for (;;) {
      // Not `Promise.race` with one promise for all: that would hold every piece until the end.
      const next = await new Promise<IteratorResult<T>>((resolve, reject) => {
        giveUp = reject
        Promise.resolve(iterator.next()).then(resolve, reject)
      })
      if (next.done) {
        open = false
        return
      }
      yield next.value
      signal.throwIfAborted()
    }
  } finally {
    signal.removeEventListener('abort', abort)
    // One that waits for what never comes would not return either: after an abort nobody waits for it.
    const returned = open ? iterator.return?.() : undefined
    if (signal.aborted) void Promise.resolve(returned).catch(() => undefined)
    else await returned
  }
}

export interface PutCheck {
  /** Takes the next piece; throws when the source has become longer than it may. */
  update(piece: Uint8Array): void
  /** Throws `blob_corrupt` when the bytes are not those that were expected. */
  finish(): { readonly hash: BlobHash; readonly sizeBytes: number }
}

/** Names the bytes of a put, and holds them against what the caller knows of them. */
export const checkPut = (options: PutOptions): PutCheck => {
  const sha256 = createHash('sha256')
  let sizeBytes = 0
  const refuse = (detail: string): BrambleError => new BrambleError('blob_corrupt', { detail })
  return {
    update: (piece) => {
      sizeBytes += piece.length
      if (options.sizeBytes !== undefined && sizeBytes > options.sizeBytes)
        throw refuse(`the source gives more than the ${options.sizeBytes} bytes that were announced`)
      if (sizeBytes > LIMITS.maxBlobBytes.value)
        throw new BrambleError('body_too_large', {
          detail: `a blob has at most ${LIMITS.maxBlobBytes.value} bytes`,
        })
      sha256.update(piece)
    },
    finish: () => {
      const hash = sha256.digest('hex') as BlobHash
      if (options.sizeBytes !== undefined && sizeBytes !== options.sizeBytes)
        throw refuse(`the source gave ${sizeBytes} bytes, and ${options.sizeBytes} were announced`)
      if (options.expect !== undefined && hash !== options.expect)
        throw refuse(`the bytes have the hash ${hash}, and ${options.expect} was expected`)
      return { hash, sizeBytes }
    },
  }
}

/**
 * The pieces of a whole blob, the last of them only when all have the hash. Otherwise `damaged` is told what is wrong, and
 * gives the error to end with.
 */
export async function* verified(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  { hash, sizeBytes }: Pick<BlobInfo, 'hash' | 'sizeBytes'>,
  damaged: (what: string) => Promise<Error> | Error,
): AsyncGenerator<Uint8Array, void, undefined> {
  const sha256 = createHash('sha256')
  let held: Uint8Array | undefined
  let seen = 0
  for await (const piece of pieces) {
    if (piece.length === 0) continue
    seen += piece.length
    if (seen > sizeBytes) throw await damaged(`more than its ${sizeBytes} bytes`)
    sha256.update(piece)
    if (held) yield held
    held = piece
  }
  if (seen !== sizeBytes) throw await damaged(`${seen} of ${sizeBytes} bytes`)
  const found = sha256.digest('hex')
  if (found !== hash) throw await damaged(`bytes with the hash ${found}`)
  if (held) yield held
}

export interface ByteRange {
  readonly start: number
  /** Exclusive. */
  readonly end: number
  /** Whether it is all of the blob. */
  readonly whole: boolean
}

/** The range that `get` was asked for, or `range_not_satisfiable`. */
export const rangeOf = (range: GetOptions['range'], sizeBytes: number): ByteRange => {
  const start = range?.start ?? 0
  const end = range?.end ?? sizeBytes
  const fits =
    Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && start <= end && end <= sizeBytes
  if (!fits)
    throw new BrambleError('range_not_satisfiable', { detail: `bytes ${start} to ${end} of a blob of ${sizeBytes}` })
  return { start, end, whole: start === 0 && end === sizeBytes }
}

/** Reading starts when the first piece is asked for; a signal ends it at once. */
export const streamOf = (
  info: BlobInfo,
  pieces: () => AsyncIterable<Uint8Array>,
  signal?: AbortSignal,
): BlobStream => ({
  info,
  [Symbol.asyncIterator]: () => abortable(pieces(), signal)[Symbol.asyncIterator](),
})

export const notFound = (hash: string, store: string): BrambleError =>
  new BrambleError('blob_not_found', { detail: `${hash} (${store})` })
