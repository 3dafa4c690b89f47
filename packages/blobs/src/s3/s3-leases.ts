import { randomUUID } from 'node:crypto'
import { type BlobHash, blobHashSchema } from '@bramble/protocol'
import type { LeaseKeeper } from '../lease-table.ts'
import type { S3Objects } from './s3-objects.ts'

/**
 * Leases as objects: `leases/<id>/expires` has the time in milliseconds, and every other object below `leases/<id>/` one hash
 * a line. They are for the processes of this prefix that come after this one; they do not hold up a collection that another
 * node has begun: for that there is the age of objects.
 */
const ROOT = 'leases/'
const EXPIRES = 'expires'
/** Of one object: as many holds as one request carries. */
const maxLeaseBytes = 64 * 1024 * 1024

export const s3LeaseKeeper = (objects: S3Objects): LeaseKeeper => {
  /** Holds that come while one is being written go together into the next. */
  const waiting = new Map<string, { hashes: BlobHash[]; written: Promise<void> }>()
  const tails = new Map<string, Promise<void>>()
  return {
    renew: (id, expiresMs) => objects.put(`${ROOT}${id}/${EXPIRES}`, Buffer.from(String(expiresMs))),
    hold: (id, hashes) => {
      const next = waiting.get(id)
      if (next) {
        next.hashes.push(...hashes)
        return next.written
      }
      const gathered = [...hashes]
      const written = (tails.get(id) ?? Promise.resolve()).then(() => {
        waiting.delete(id)
        return objects.put(`${ROOT}${id}/${randomUUID()}`, Buffer.from(gathered.join('\n')))
      })
      waiting.set(id, { hashes: gathered, written })
      tails.set(
        id,
        written.catch(() => undefined),
      )
      return written
    },
    release: async (id) => {
      await tails.get(id)
      tails.delete(id)
      // First what says that the others count.
      await objects.remove(`${ROOT}${id}/${EXPIRES}`)
      for await (const { key } of objects.list(`${ROOT}${id}/`)) await objects.remove(key)
    },
  }
}

export interface KeptLease {
  readonly expiresMs: number
  readonly hashes: readonly BlobHash[]
}

/** What the leases that have not expired hold. The others are removed. */
export const readS3Leases = async (objects: S3Objects, now: number): Promise<KeptLease[]> => {
  const leases = new Map<string, string[]>()
  for await (const { key } of objects.list(ROOT)) {
    const id = key.slice(ROOT.length).split('/', 1)[0] ?? ''
    leases.set(id, [...(leases.get(id) ?? []), key])
  }
  const kept: KeptLease[] = []
  for (const [id, keys] of leases) {
    const expires = await objects.get(`${ROOT}${id}/${EXPIRES}`, 32)
    const expiresMs = Number(expires?.bytes.toString('utf8') ?? 0)
    if (expiresMs > now) kept.push({ expiresMs, hashes: await hashesOf(objects, keys) })
    else for (const key of keys) await objects.remove(key)
  }
  return kept
}

const hashesOf = async (objects: S3Objects, keys: readonly string[]): Promise<BlobHash[]> => {
  const hashes: BlobHash[] = []
  for (const key of keys) {
    if (key.endsWith(`/${EXPIRES}`)) continue
    const object = await objects.get(key, maxLeaseBytes)
    for (const line of object?.bytes.toString('utf8').split('\n') ?? []) {
      const hash = blobHashSchema.safeParse(line)
      if (hash.success) hashes.push(hash.data)
    }
  }
  return hashes
}
