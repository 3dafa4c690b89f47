import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { BlobInfo, BlobStream } from '../blob-store.ts'
import { notFound } from '../pieces.ts'
import { isUnavailable } from './breaker.ts'
import type { TieredContext } from './context.ts'

/** Brings a blob into the local tier. Those who ask for the same one share it. */
export type FetchBlob = (hash: BlobHash) => Promise<BlobInfo>

const attempts = 2

export const codeOf = (thrown: unknown): string | undefined =>
  thrown instanceof BrambleError ? thrown.code : undefined

export const blobFetcher = (context: TieredContext, closing: AbortSignal): FetchBlob => {
  const { local, observe } = context
  const running = new Map<BlobHash, Promise<BlobInfo>>()

  const fetchOnce = async (hash: BlobHash): Promise<BlobInfo> => {
    const stream = await openShared(context, hash, closing)
    const { codec, sizeBytes } = stream.info
    const temperature = codec === 'zstd' ? 'cold' : 'hot'
    const info = await local.put(stream, { expect: hash, sizeBytes, temperature, signal: closing })
    observe({ kind: 'fetched', storedBytes: info.storedBytes })
    return info
  }

  const fetch = async (hash: BlobHash): Promise<BlobInfo> => {
    for (let attempt = 1; ; attempt++)
      try {
        return await fetchOnce(hash)
      } catch (thrown) {
        if (codeOf(thrown) === 'blob_not_found') throw notFound(hash, 'tiered')
        // Damaged where it lies, or on its way: the latter is another time.
        if (codeOf(thrown) !== 'blob_corrupt' || attempt === attempts) throw thrown
      }
  }

  return (hash) => {
    const present = running.get(hash)
    if (present) return present
    const fetching = fetch(hash).finally(() => running.delete(hash))
    running.set(hash, fetching)
    context.background(fetching)
    return fetching
  }
}

/** A stream of the shared tier. Its beginning is waited for as long as the breaker waits; what breaks it later, opens the breaker. */
export const openShared = async (context: TieredContext, hash: BlobHash, signal?: AbortSignal): Promise<BlobStream> => {
  const { shared, breaker, uploaded } = context
  const learn = (thrown: unknown): void => {
    if (isUnavailable(thrown)) breaker.failed(thrown)
    // Whoever puts it again, is to bring it there again.
    else if (thrown instanceof BrambleError) uploaded.delete(hash)
  }
  const open = (late: AbortSignal): Promise<BlobStream> =>
    shared.get(hash, { signal: signal ? AbortSignal.any([signal, late]) : late })
  const stream = await breaker.run(open, signal).catch((thrown: unknown) => {
    learn(thrown)
    throw thrown
  })
  return {
    info: stream.info,
    [Symbol.asyncIterator]: async function* () {
      try {
        yield* stream
      } catch (thrown) {
        learn(thrown)
        throw thrown
      }
    },
  }
}
