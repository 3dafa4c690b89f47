import { randomUUID } from 'node:crypto'
import { type BlobHash, BrambleError, blobHashSchema } from '@bramble/protocol'
import type {
  Abortable,
  BlobInfo,
  BlobSource,
  BlobStream,
  GetOptions,
  ListedBlob,
  PutOptions,
  RemoveOptions,
} from '../blob-store.ts'
import { type OpenedBlob, openStored } from '../codec/decode.ts'
import { type Encoded, encodeBlob } from '../codec/encode.ts'
import type { KeyedLock } from '../keyed-lock.ts'
import type { LeaseTable } from '../lease-table.ts'
import { checkPut, notFound, piecesOf, rangeOf, streamOf, verified } from '../pieces.ts'
import { copyObject, type PartedUpload, partBytesAfter, startUpload } from './s3-multipart.ts'
import type { ObjectPart, S3Objects } from './s3-objects.ts'

export interface S3Context {
  readonly objects: S3Objects
  readonly leases: () => Promise<LeaseTable>
  readonly lock: KeyedLock
  /** Copies that were found damaged by this process: the next put replaces them. */
  readonly suspects: Set<BlobHash>
  readonly now: () => number
  readonly step: (what: string) => void | Promise<void>
}

/** What is put again is written again where it is older: whoever collects goes by when an object was written. */
const touchAfterMs = 6 * 3_600_000
/** The end of a blob, which tells what it is, and all of a small one. */
const tailBytes = 64 * 1024
/** Listings tell seconds; a blob is never taken for older than it is. */
const modifiedGrainMs = 999
const suspectsMax = 10_000

const isHash = (hash: string): boolean => blobHashSchema.safeParse(hash).success
export const keyOf = (hash: BlobHash): string => `blobs/${hash.slice(0, 2)}/${hash}`
export const temporaryPrefix = 'tmp/'

interface OpenedObject {
  readonly info: BlobInfo
  readonly blob: OpenedBlob
  readonly modifiedMs: number
  readonly damaged: (what: string) => Error
}

const openObject = async (
  { objects, suspects }: S3Context,
  hash: BlobHash,
  options: Abortable,
): Promise<OpenedObject | undefined> => {
  if (!isHash(hash)) return undefined
  const key = keyOf(hash)
  const tail = await objects.tail(key, tailBytes, options)
  if (!tail) return undefined
  const damaged = (what: string): Error => {
    if (suspects.size < suspectsMax) suspects.add(hash)
    return new BrambleError('blob_corrupt', { detail: `${hash} in s3 (${objects.connection.location.label}): ${what}` })
  }
  const blob = await openStored(storedObject(objects, key, tail, options), damaged)
  const info = { hash, sizeBytes: blob.sizeBytes, storedBytes: tail.sizeBytes, codec: blob.codec }
  return { info, blob, modifiedMs: tail.modifiedMs, damaged }
}

const storedObject = (objects: S3Objects, key: string, tail: ObjectPart, options: Abortable) => {
  const tailStart = tail.sizeBytes - tail.bytes.length
  return {
    storedBytes: tail.sizeBytes,
    read: async function* (start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
      if (start < tailStart)
        yield* objects.read(key, { start, end: Math.min(end, tailStart), etag: tail.etag }, options)
      if (end > tailStart) yield tail.bytes.subarray(Math.max(0, start - tailStart), end - tailStart)
    },
  }
}

export const statObject = async (
  context: S3Context,
  hash: BlobHash,
  options: Abortable,
): Promise<BlobInfo | undefined> => {
  options.signal?.throwIfAborted()
  return (await openObject(context, hash, options))?.info
}

export const getObject = async (context: S3Context, hash: BlobHash, options: GetOptions): Promise<BlobStream> => {
  options.signal?.throwIfAborted()
  const opened = await openObject(context, hash, options)
  if (!opened) throw notFound(hash, 's3')
  const { info, blob, damaged } = opened
  const range = rangeOf(options.range, info.sizeBytes)
  const content = (): AsyncIterable<Uint8Array> => {
    const pieces = blob.read(range)
    return range.whole ? verified(pieces, info, damaged) : pieces
  }
  return streamOf(info, content, options.signal)
}

export const putObject = async (context: S3Context, source: BlobSource, options: PutOptions): Promise<BlobInfo> => {
  options.signal?.throwIfAborted()
  const check = checkPut(options)
  const hashed = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of piecesOf(source, options.signal)) {
      check.update(piece)
      yield piece
    }
  }
  // Nothing of an upload is seen before it is complete, which it is only after its hash was found to be the expected one.
  const uploadKey = options.expect === undefined ? `${temporaryPrefix}${randomUUID()}` : keyOf(options.expect)
  const begun: { upload?: PartedUpload } = {}
  let completed = false
  try {
    const { encoded, rest } = await sendParts(hashed(), options, async (part) => {
      begun.upload ??= await startUpload(context.objects, uploadKey, options.signal)
      await context.step('part')
      await begun.upload.add(part)
    })
    const info: BlobInfo = { ...check.finish(), ...encoded }
    options.signal?.throwIfAborted()
    const { upload } = begun
    return await context.lock(info.hash, async () => {
      if (options.lease) await (await context.leases()).claim(options.lease, info.hash)
      if (!upload) {
        await context.step('put')
        await context.objects.put(keyOf(info.hash), rest, options)
      } else {
        const present = await youngObject(context, info.hash, options)
        if (present) return present
        if (rest.length > 0) await upload.add(rest)
        await context.step('complete')
        await upload.complete()
        if (options.expect === undefined) {
          completed = true
          await context.step('copy')
          const { storedBytes: sizeBytes } = info
          await copyObject(context.objects, uploadKey, keyOf(info.hash), { ...options, sizeBytes })
          await context.step('remove')
        }
      }
      context.suspects.delete(info.hash)
      return info
    })
  } finally {
    await begun.upload?.abort()
    if (completed) await context.objects.remove(uploadKey).catch(() => undefined)
  }
}

/** Hands on full parts as they come; the rest, up to a part, is given at the end. */
const sendParts = async (
  pieces: AsyncIterable<Uint8Array>,
  options: PutOptions,
  send: (part: Uint8Array) => Promise<void>,
): Promise<{ readonly encoded: Encoded; readonly rest: Uint8Array }> => {
  const stored = encodeBlob(pieces, options.temperature)
  let waiting: Uint8Array[] = []
  let waitingBytes = 0
  let parts = 0
  try {
    for (;;) {
      const next = await stored.next()
      if (next.done) return { encoded: next.value, rest: Buffer.concat(waiting, waitingBytes) }
      waiting.push(next.value)
      waitingBytes += next.value.length
      if (waitingBytes < partBytesAfter(parts)) continue
      parts++
      const part = Buffer.concat(waiting, waitingBytes)
      waiting = []
      waitingBytes = 0
      await send(part)
    }
  } finally {
    await stored.return({ codec: 'none', sizeBytes: 0, storedBytes: 0 })
  }
}

/** The blob, where it is there and need not be written again. */
export const youngObject = async (
  context: S3Context,
  hash: BlobHash,
  options: Abortable,
): Promise<BlobInfo | undefined> => {
  if (context.suspects.has(hash)) return undefined
  try {
    const opened = await openObject(context, hash, options)
    return opened && context.now() - opened.modifiedMs < touchAfterMs ? opened.info : undefined
  } catch (thrown) {
    if (thrown instanceof BrambleError && thrown.code === 'blob_corrupt') return undefined
    throw thrown
  }
}

export async function* listObjects({ objects }: S3Context, options: Abortable): AsyncGenerator<ListedBlob> {
  for await (const { key, sizeBytes, modifiedMs } of objects.list('blobs/', options)) {
    const hash = blobHashSchema.safeParse(key.slice('blobs/xx/'.length))
    if (hash.success && keyOf(hash.data) === key)
      yield { hash: hash.data, storedBytes: sizeBytes, touchedMs: modifiedMs + modifiedGrainMs }
  }
}

export const removeObject = (context: S3Context, hash: BlobHash, options: RemoveOptions): Promise<boolean> =>
  context.lock(hash, async () => {
    if (!isHash(hash)) return true
    const { idleSinceMs } = options
    if (idleSinceMs !== undefined) {
      if ((await context.leases()).isHeld(hash)) return false
      const found = await context.objects.head(keyOf(hash), options)
      if (found && found.modifiedMs + modifiedGrainMs >= idleSinceMs) return false
    }
    await context.objects.remove(keyOf(hash), options)
    return true
  })
