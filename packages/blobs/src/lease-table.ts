import { randomUUID } from 'node:crypto'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { Lease, Leases } from './blob-store.ts'
import { notFound } from './pieces.ts'

const defaultTtlMs = 3_600_000
const minTtlMs = 1000
const maxTtlMs = 7 * 24 * 3_600_000
/** A live lease is renewed this often in each of its lives. */
const renewalsPerTtl = 3

/** What makes leases outlive the process. Each resolves when it is on stable storage. */
export interface LeaseKeeper {
  /** Makes the lease, or moves when it expires. */
  renew(id: string, expiresMs: number): Promise<void>
  hold(id: string, hashes: readonly BlobHash[]): Promise<void>
  release(id: string): Promise<void>
}

export interface LeaseTableOptions {
  readonly store: string
  readonly now: () => number
  /** Whether the blob is there, marked as touched if so. */
  readonly touch: (hash: BlobHash) => Promise<boolean>
  readonly keeper?: LeaseKeeper
  /** What earlier processes held. */
  readonly inherited?: Iterable<{ readonly expiresMs: number; readonly hashes: Iterable<BlobHash> }>
}

interface Entry {
  expiresMs: number
  readonly hashes: Set<BlobHash>
}

interface OwnEntry extends Entry {
  /** Of those that are held: when the hold is durable. */
  readonly durable: Map<BlobHash, Promise<void>>
  /** Those that were seen to be there, and need not be looked for again. */
  readonly seen: Set<BlobHash>
}

/** The leases of one process, and what it inherited of earlier ones. */
export interface LeaseTable extends Leases {
  isHeld(hash: BlobHash): boolean
  /** For `put`: what is about to be there. The hold counts at once, and is durable when this resolves. */
  claim(lease: Lease, hash: BlobHash): Promise<void>
  /** The blob has gone: whoever holds it is told so when it asks to hold it once more. */
  lost(hash: BlobHash): void
  /** Ends renewing. What was not released stays until it expires. */
  close(): void
}

export const leaseTable = (options: LeaseTableOptions): LeaseTable => {
  const { keeper, now } = options
  const entries = new Map<string, OwnEntry>()
  const inherited = [...(options.inherited ?? [])].map(({ expiresMs, hashes }) => ({
    expiresMs,
    hashes: new Set(hashes),
  }))
  const timers = new Map<string, NodeJS.Timeout>()

  function* live(): Iterable<Entry> {
    for (const entry of [...entries.values(), ...inherited]) if (entry.expiresMs > now()) yield entry
  }

  const entryOf = (id: string): OwnEntry => {
    const entry = entries.get(id)
    if (!entry) throw new BrambleError('conflict', { detail: `the lease ${id} of ${options.store} has been released` })
    return entry
  }

  /** Whoever holds what another call is just about to hold waits for the same write. */
  const persist = async (id: string, own: OwnEntry, hashes: readonly BlobHash[]): Promise<void> => {
    if (!keeper) return
    const fresh = hashes.filter((hash) => !own.durable.has(hash))
    if (fresh.length > 0) {
      const written = keeper.hold(id, fresh)
      for (const hash of fresh) own.durable.set(hash, written)
      written.catch(() => {
        for (const hash of fresh) own.durable.delete(hash)
      })
    }
    await Promise.all(hashes.map((hash) => own.durable.get(hash)))
  }

  const release = async (id: string): Promise<void> => {
    clearInterval(timers.get(id))
    timers.delete(id)
    if (entries.delete(id)) await keeper?.release(id)
  }

  return {
    acquire: async ({ ttlMs: asked = defaultTtlMs } = {}) => {
      const ttlMs = Math.min(Math.max(asked, minTtlMs), maxTtlMs)
      const id = randomUUID()
      const entry: OwnEntry = {
        expiresMs: now() + ttlMs,
        hashes: new Set(),
        durable: new Map(),
        seen: new Set(),
      }
      await keeper?.renew(id, entry.expiresMs)
      entries.set(id, entry)
      const renew = (): void => {
        const expiresMs = now() + ttlMs
        entry.expiresMs = expiresMs
        // A renewal that fails is tried again in a while; until then the last one counts.
        keeper?.renew(id, expiresMs).catch(() => undefined)
      }
      timers.set(id, setInterval(renew, ttlMs / renewalsPerTtl).unref())
      return {
        id,
        hold: async (hashes) => {
          const own = entryOf(id)
          const wanted = [...hashes].filter((hash) => !own.seen.has(hash))
          const fresh = wanted.filter((hash) => !own.hashes.has(hash))
          // Held first, looked for then: a collection sees the one or leaves time for the other.
          for (const hash of fresh) own.hashes.add(hash)
          for (const hash of wanted)
            if (!(await options.touch(hash))) {
              for (const each of fresh) own.hashes.delete(each)
              throw notFound(hash, options.store)
            }
          await persist(id, own, wanted)
          for (const hash of wanted) own.seen.add(hash)
        },
        release: () => release(id),
        // What cannot be taken back now expires; it must not hide what went wrong before.
        [Symbol.asyncDispose]: () => release(id).catch(() => undefined),
      }
    },
    held: async function* () {
      for (const entry of live()) yield* entry.hashes
    },
    isHeld: (hash) => {
      for (const entry of live()) if (entry.hashes.has(hash)) return true
      return false
    },
    claim: async (lease, hash) => {
      const own = entryOf(lease.id)
      own.hashes.add(hash)
      await persist(lease.id, own, [hash])
    },
    lost: (hash) => {
      for (const { seen } of entries.values()) seen.delete(hash)
    },
    close: () => {
      for (const timer of timers.values()) clearInterval(timer)
      timers.clear()
    },
  }
}
