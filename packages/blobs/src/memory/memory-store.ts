import type { BlobHash } from '@bramble/protocol'
import type { BlobInfo, BlobStore, NameStore } from '../blob-store.ts'
import { leaseTable } from '../lease-table.ts'
import { checkName, checkNameValue } from '../name-rules.ts'
import { checkPut, maxPieceBytes, notFound, piecesOf, rangeOf, streamOf } from '../pieces.ts'

export interface MemoryStoreOptions {
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

interface Kept {
  readonly info: BlobInfo
  readonly bytes: Buffer
  touchedMs: number
}

/** Everything in memory, for tests and nodes that keep nothing. What was stored is gone with the process. */
export const memoryStore = ({ now = Date.now }: MemoryStoreOptions = {}): BlobStore => {
  const blobs = new Map<BlobHash, Kept>()
  const leases = leaseTable({
    store: 'memory',
    now,
    touch: async (hash) => {
      const kept = blobs.get(hash)
      if (kept) kept.touchedMs = now()
      return kept !== undefined
    },
  })
  const close = async (): Promise<void> => leases.close()

  return {
    name: 'memory',
    put: async (source, options = {}) => {
      const check = checkPut(options)
      const pieces: Uint8Array[] = []
      for await (const piece of piecesOf(source, options.signal)) {
        check.update(piece)
        pieces.push(piece)
      }
      const { hash, sizeBytes } = check.finish()
      if (options.lease) await leases.claim(options.lease, hash)
      const kept = blobs.get(hash) ?? {
        info: { hash, sizeBytes, storedBytes: sizeBytes, codec: 'none' },
        bytes: Buffer.concat(pieces),
        touchedMs: now(),
      }
      kept.touchedMs = now()
      blobs.set(hash, kept)
      return kept.info
    },
    get: async (hash, { range, signal } = {}) => {
      signal?.throwIfAborted()
      const kept = blobs.get(hash)
      if (!kept) throw notFound(hash, 'memory')
      const { start, end } = rangeOf(range, kept.info.sizeBytes)
      const copies = async function* (): AsyncIterable<Uint8Array> {
        for (let at = start; at < end; at += maxPieceBytes)
          yield Uint8Array.from(kept.bytes.subarray(at, Math.min(end, at + maxPieceBytes)))
      }
      return streamOf(kept.info, copies, signal)
    },
    stat: async (hash) => blobs.get(hash)?.info,
    list: async function* ({ signal } = {}) {
      for (const { info, touchedMs } of [...blobs.values()]) {
        signal?.throwIfAborted()
        yield { hash: info.hash, storedBytes: info.storedBytes, touchedMs }
      }
    },
    remove: async (hash, { idleSinceMs } = {}) => {
      const kept = blobs.get(hash)
      if (kept && idleSinceMs !== undefined && (kept.touchedMs >= idleSinceMs || leases.isHeld(hash))) return false
      blobs.delete(hash)
      leases.lost(hash)
      return true
    },
    names: memoryNames(),
    leases,
    settled: async () => undefined,
    close,
    [Symbol.asyncDispose]: close,
  }
}

const memoryNames = (): NameStore => {
  const values = new Map<string, Uint8Array>()
  return {
    set: async (name, value) => {
      checkName(name)
      checkNameValue(value)
      values.set(name, Uint8Array.from(value))
    },
    get: async (name) => {
      checkName(name)
      const value = values.get(name)
      return value && Uint8Array.from(value)
    },
    remove: async (name) => {
      checkName(name)
      values.delete(name)
    },
    list: async function* (prefix) {
      for (const name of [...values.keys()].sort()) if (name.startsWith(prefix)) yield name
    },
  }
}
