import { crc32 } from 'node:zlib'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type {
  Abortable,
  BlobInfo,
  BlobSource,
  BlobStore,
  BlobStream,
  GetOptions,
  Lease,
  Leases,
  PutOptions,
  RemoveOptions,
} from '../blob-store.ts'
import { type ByteRange, notFound, rangeOf } from '../pieces.ts'
import { until } from '../until.ts'
import type { TieredContext } from './context.ts'
import { codeOf, type FetchBlob, openShared } from './fetch-blob.ts'

export interface TieredBlobs extends Pick<BlobStore, 'put' | 'get' | 'stat' | 'remove' | 'leases'> {
  readonly fetch: FetchBlob
}

/** Codes of a local tier that cannot take a copy now; the shared one has it all the same. */
const NO_ROOM: readonly (string | undefined)[] = ['store_full', 'store_read_only']
const ABSENT: readonly (string | undefined)[] = ['blob_not_found', 'blob_corrupt']

export const tieredBlobs = (context: TieredContext, fetch: FetchBlob): TieredBlobs => {
  const { local, shared, queue, breaker, uploaded, kick } = context
  /** Removed here, and not yet there. */
  const isRemoved = (hash: BlobHash): boolean => queue.get('blob', hash)?.does === 'remove'

  const put = async (source: BlobSource, options: PutOptions = {}): Promise<BlobInfo> => {
    const info = await local.put(source, options)
    if (!uploaded.has(info.hash) || isRemoved(info.hash)) {
      await context.step('enqueue')
      await queue.add({ kind: 'blob', target: info.hash, does: 'put' }, info.storedBytes)
      kick()
    }
    return info
  }

  const get = async (hash: BlobHash, options: GetOptions = {}): Promise<BlobStream> => {
    options.signal?.throwIfAborted()
    if (isRemoved(hash)) throw notFound(hash, 'tiered')
    const stream = await local.get(hash, options).catch((thrown: unknown) => {
      if (!ABSENT.includes(codeOf(thrown))) throw thrown
      return thrown as BrambleError
    })
    if (!(stream instanceof BrambleError)) return healing(hash, stream, options)
    if (await bring(hash, stream, options.signal)) return local.get(hash, options)
    return direct(hash, options)
  }

  /** False: the local tier cannot take it. */
  const bring = async (hash: BlobHash, why: BrambleError, signal?: AbortSignal): Promise<boolean> => {
    try {
      await until(fetch(hash), signal)
    } catch (thrown) {
      if (NO_ROOM.includes(codeOf(thrown))) return false
      // The local copy is damaged, and there is no other: that is what happened.
      if (why.code === 'blob_corrupt' && codeOf(thrown) === 'blob_not_found') throw why
      throw thrown
    }
    if (why.code === 'blob_corrupt') context.observe({ kind: 'healed', tier: 'local', what: hash })
    return true
  }

  /** Goes on with a good copy where the local one turns out to be damaged. */
  const healing = (hash: BlobHash, stream: BlobStream, options: GetOptions): BlobStream => ({
    info: stream.info,
    [Symbol.asyncIterator]: async function* () {
      let given = 0
      let crc = 0
      let damaged: BrambleError | undefined
      try {
        for await (const piece of stream) {
          given += piece.length
          crc = crc32(piece, crc)
          yield piece
        }
      } catch (thrown) {
        if (!(thrown instanceof BrambleError) || thrown.code !== 'blob_corrupt') throw thrown
        damaged = thrown
      }
      if (!damaged) return
      const whole = (await bring(hash, damaged, options.signal)) ? await local.get(hash, options) : undefined
      yield* after(whole ?? (await direct(hash, options)), given, crc, damaged)
    },
  })

  /** From the shared tier alone: all of it is read and verified, of which the range is given. */
  const direct = async (hash: BlobHash, { range, signal }: GetOptions): Promise<BlobStream> => {
    const stream = await openShared(context, hash, signal)
    const wanted = rangeOf(range, stream.info.sizeBytes)
    return { info: stream.info, [Symbol.asyncIterator]: () => within(stream, wanted)[Symbol.asyncIterator]() }
  }

  const stat = async (hash: BlobHash, options: Abortable = {}): Promise<BlobInfo | undefined> => {
    if (isRemoved(hash)) return undefined
    const found = await local.stat(hash, options).catch((thrown: unknown) => {
      if (codeOf(thrown) !== 'blob_corrupt') throw thrown
      return undefined
    })
    return found ?? breaker.run((signal) => shared.stat(hash, { signal }), options.signal)
  }

  const remove = async (hash: BlobHash, options: RemoveOptions = {}): Promise<boolean> => {
    // A collection knows what this node needs; of the shared tier, others need some, too.
    if (options.idleSinceMs !== undefined) return local.remove(hash, options)
    uploaded.delete(hash)
    if (/^[0-9a-f]{64}$/.test(hash)) await queue.add({ kind: 'blob', target: hash, does: 'remove' }, 0)
    await context.step('remove local')
    await local.remove(hash, options)
    kick()
    return true
  }

  const hold = async (lease: Lease, hashes: readonly BlobHash[]): Promise<void> => {
    // A fetched one is young, but may be made room with before it is held.
    for (let attempt = 1; ; attempt++)
      try {
        return await lease.hold(hashes)
      } catch (thrown) {
        if (codeOf(thrown) !== 'blob_not_found' || attempt === 3) throw thrown
        for (const hash of hashes) {
          if (isRemoved(hash)) throw thrown
          if (!(await local.stat(hash))) await fetch(hash)
        }
      }
  }
  const leases: Leases = {
    acquire: async (options) => {
      const lease = await local.leases.acquire(options)
      return {
        id: lease.id,
        hold: (hashes, { here = false } = {}) => (here ? lease.hold(hashes) : hold(lease, [...hashes])),
        release: () => lease.release(),
        [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose](),
      }
    },
    held: () => local.leases.held(),
  }
  return { put, get, stat, remove, leases, fetch }
}

/** What comes after the `given` bytes, where those were the same. */
async function* after(
  stream: BlobStream,
  given: number,
  crc: number,
  damaged: BrambleError,
): AsyncGenerator<Uint8Array, void, undefined> {
  let left = given
  let seen = 0
  for await (const piece of stream) {
    const known = piece.subarray(0, left)
    seen = crc32(known, seen)
    left -= known.length
    if (left > 0) continue
    // Good now, but its reader has something else: another reader will have it.
    if (seen !== crc) throw damaged
    if (piece.length > known.length) yield piece.subarray(known.length)
  }
}

/** The last piece comes when all of the stream has, and was good. */
async function* within(stream: BlobStream, { start, end }: ByteRange): AsyncGenerator<Uint8Array, void, undefined> {
  let at = 0
  let held: Uint8Array | undefined
  for await (const piece of stream) {
    const part = piece.subarray(Math.max(0, start - at), Math.max(0, end - at))
    at += piece.length
    if (part.length === 0) continue
    if (held) yield held
    held = part
  }
  if (held) yield held
}
