import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { BlobInfo, BlobSource, PutOptions } from '../blob-store.ts'
import { tailBytes } from '../codec/decode.ts'
import { type Encoded, encodeBlob } from '../codec/encode.ts'
import { storedBytesMax } from '../codec/layout.ts'
import { checkPut, maxPieceBytes, type PutCheck, piecesOf } from '../pieces.ts'
import type { TempFile } from './disk.ts'
import { type FsContext, pathOf, shardOf, touchBlob } from './fs-blobs.ts'
import { onDisk } from './fs-error.ts'
import { glance } from './get-blob.ts'
import type { Room } from './room.ts'

export const putBlob = async (context: FsContext, source: BlobSource, options: PutOptions): Promise<BlobInfo> => {
  options.signal?.throwIfAborted()
  if (source instanceof Uint8Array && source.length <= maxPieceBytes) return putSmall(context, source, options)
  await using temp = await onDisk(() => context.disk.create())
  const check = checkPut(options)
  const encoded = await write(temp, hashed(piecesOf(source, options.signal), check), options)
  const info = { ...check.finish(), ...encoded }
  const present = await keptInfo(context, info.hash, options)
  if (present) return present
  await context.room.take(info.storedBytes)
  return await within(context.room, info.storedBytes, () => publish(context, temp, info, options))
}

/** Its name is known before anything is written: there may be nothing to write. */
const putSmall = async (context: FsContext, source: Uint8Array, options: PutOptions): Promise<BlobInfo> => {
  const { opening, room, disk } = context
  const check = checkPut(options)
  check.update(source)
  const { hash, sizeBytes } = check.finish()
  const present = await opening(() => keptInfo(context, hash, options))
  if (present) return present
  // Not within the gate: making room may ask a store that waits at it.
  const reservedBytes = storedBytesMax(sizeBytes)
  await room.take(reservedBytes)
  return within(room, reservedBytes, () =>
    opening(async () => {
      await using temp = await onDisk(() => disk.create())
      const encoded = await write(temp, [source], options)
      return await publish(context, temp, { ...encoded, hash, sizeBytes }, options)
    }),
  )
}

interface Published {
  readonly info: BlobInfo
  /** False: another put of the same bytes was first. */
  readonly isNew: boolean
}

/** Gives back what was taken of the room, and not used. */
const within = async (room: Room, takenBytes: number, run: () => Promise<Published>): Promise<BlobInfo> => {
  let usedBytes = 0
  try {
    const { info, isNew } = await run()
    if (isNew) usedBytes = info.storedBytes
    return info
  } finally {
    room.freed(takenBytes - usedBytes)
  }
}

async function* hashed(pieces: AsyncIterable<Uint8Array>, check: PutCheck): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    check.update(piece)
    yield piece
  }
}

/** Each write is under way while the next bytes are hashed and coded. Small blobs are written at once. */
const write = async (
  temp: TempFile,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: PutOptions,
): Promise<Encoded> => {
  const stored = encodeBlob(pieces, options.temperature)
  let writing: Promise<void> = Promise.resolve()
  let waiting: Uint8Array[] = []
  let waitingBytes = 0
  const flush = async (): Promise<void> => {
    await writing
    const bytes = waiting.length === 1 && waiting[0] ? waiting[0] : Buffer.concat(waiting, waitingBytes)
    waiting = []
    waitingBytes = 0
    writing = onDisk(() => temp.write(bytes))
    writing.catch(() => undefined)
  }
  try {
    for (;;) {
      const next = await stored.next()
      if (next.done) {
        await flush()
        await writing
        return next.value
      }
      waiting.push(next.value)
      waitingBytes += next.value.length
      if (waitingBytes >= maxPieceBytes) await flush()
    }
  } catch (thrown) {
    await stored.return({ codec: 'none', sizeBytes: 0, storedBytes: 0 }).catch(() => undefined)
    throw thrown
  } finally {
    await writing.catch(() => undefined)
  }
}

/** Under the blob's lock: what is there already is touched and held. */
const keep = async (context: FsContext, hash: BlobHash, { lease }: PutOptions): Promise<boolean> => {
  if (!(await onDisk(() => touchBlob(context, hash, lease ? 'leased' : 'durable')))) return false
  if (lease) await context.leases.claim(lease, hash)
  // One whose directory could not be flushed may be there, and not be durable.
  await onDisk(() => context.disk.ensureSynced(shardOf(context.paths, hash)))
  return true
}

/** What is there, told to last; undefined: nothing, or what was damaged and is set aside now. */
const keptInfo = async (context: FsContext, hash: BlobHash, options: PutOptions): Promise<BlobInfo | undefined> => {
  if (!(await context.lock(hash, () => keep(context, hash, options)))) return undefined
  try {
    return (await glance(context, hash))?.info
  } catch (thrown) {
    if (thrown instanceof BrambleError && thrown.code === 'blob_corrupt') return undefined
    throw thrown
  }
}

/**
 * The file is on stable storage before it has its name, and the name before anybody is told. A crash in between leaves a
 * file in `tmp/`, or a whole blob that nobody knows of.
 */
const publish = async (context: FsContext, temp: TempFile, info: BlobInfo, options: PutOptions): Promise<Published> => {
  const { hash } = info
  const { paths, leases, fresh, lock, tally } = context
  const path = pathOf(paths, hash)
  await Promise.all([onDisk(() => temp.finish()), options.lease && leases.claim(options.lease, hash)])
  options.signal?.throwIfAborted()
  for (;;) {
    const isNew = await lock(hash, async () => {
      // At once: it has just been looked for, so that no disk is asked.
      if (existsSync(path)) return false
      using change = tally.begin(hash)
      await onDisk(() => temp.publish(shardOf(paths, hash), hash))
      change.done('put', info)
      // Verifying a small one takes less than remembering it.
      if (info.storedBytes > tailBytes) fresh.add(hash, await onDisk(() => stat(path, { bigint: true })))
      return true
    })
    const there = isNew ? info : await keptInfo(context, hash, options)
    if (there) return { info: there, isNew }
  }
}
