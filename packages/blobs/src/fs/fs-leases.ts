import { type FileHandle, open, readdir, readFile, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { type BlobHash, blobHashSchema } from '@bramble/protocol'
import { type KeyedLock, keyedLock } from '../keyed-lock.ts'
import type { LeaseKeeper } from '../lease-table.ts'
import { type Disk, writeAll } from './disk.ts'
import { isErrno, onDisk } from './fs-error.ts'

/**
 * A lease is a file of records, only ever appended to: a letter, 32 bytes, and the CRC-32 of both. `H` holds the hash in
 * them; `E` moves the expiry to the milliseconds in the first eight (little-endian). What a crash left of a record at the
 * end has a wrong CRC, and was told to nobody.
 */
const recordBytes = 37
const HOLD = 'H'.charCodeAt(0)
const EXPIRY = 'E'.charCodeAt(0)

const record = (kind: number, payload: Uint8Array): Buffer => {
  const bytes = Buffer.alloc(recordBytes)
  bytes.writeUInt8(kind)
  bytes.set(payload, 1)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, recordBytes - 4)), recordBytes - 4)
  return bytes
}

const holdRecord = (hash: BlobHash): Buffer => record(HOLD, Buffer.from(hash, 'hex'))

const expiryRecord = (expiresMs: number): Buffer => {
  const payload = Buffer.alloc(8)
  payload.writeBigUInt64LE(BigInt(Math.floor(expiresMs)))
  return record(EXPIRY, payload)
}

interface OpenLease {
  expiresMs: number
  handle?: FileHandle
  /** Of what is on stable storage. */
  length: number
  /** Records to be written by the next append, which all who wait for them share. */
  waiting: Buffer[]
  next?: Promise<void> | undefined
}

/** Keeps leases in `directory`, a file each; one that holds nothing has none. */
export const fsLeaseKeeper = (directory: string, disk: Disk): LeaseKeeper & { close(): Promise<void> } => {
  const leases = new Map<string, OpenLease>()
  const lock: KeyedLock = keyedLock()

  const append = async (id: string, lease: OpenLease): Promise<void> => {
    const records = lease.waiting
    lease.waiting = []
    lease.next = undefined
    if (!leases.has(id)) return
    const first = lease.length === 0
    await disk.step('lease.append')
    lease.handle ??= await open(join(directory, id), 'w', 0o600)
    const bytes = Buffer.concat(first ? [expiryRecord(lease.expiresMs), ...records] : records)
    const end = await writeAll(lease.handle, bytes, lease.length)
    await disk.step('lease.sync')
    await lease.handle.sync()
    if (first) await disk.syncDirectory(directory)
    // Only now: what a full disk left of a record is written over by the next.
    lease.length = end
  }
  const add = (id: string, lease: OpenLease, records: readonly Buffer[]): Promise<void> => {
    lease.waiting.push(...records)
    lease.next ??= onDisk(() => lock(id, () => append(id, lease)))
    return lease.next
  }

  return {
    renew: async (id, expiresMs) => {
      const lease: OpenLease = leases.get(id) ?? { expiresMs, length: 0, waiting: [] }
      lease.expiresMs = expiresMs
      leases.set(id, lease)
      if (lease.length > 0) await add(id, lease, [expiryRecord(expiresMs)])
    },
    hold: async (id, hashes) => {
      const lease = leases.get(id)
      if (lease) await add(id, lease, hashes.map(holdRecord))
    },
    release: async (id) => {
      const lease = leases.get(id)
      leases.delete(id)
      await onDisk(() =>
        lock(id, async () => {
          await lease?.handle?.close()
          await disk.step('lease.remove')
          await unlink(join(directory, id)).catch((cause) => {
            if (!isErrno(cause, 'ENOENT')) throw cause
          })
        }),
      )
    },
    close: async () => {
      const open = [...leases]
      leases.clear()
      for (const [id, lease] of open) await lock(id, async () => lease.handle?.close())
    },
  }
}

export interface InheritedLease {
  readonly expiresMs: number
  readonly hashes: readonly BlobHash[]
}

/** The leases that earlier processes left. Those that have expired are removed. */
export const readLeases = async (directory: string, now: number): Promise<InheritedLease[]> => {
  const leases: InheritedLease[] = []
  for (const id of await readdir(directory)) {
    const path = join(directory, id)
    const lease = parseLease(await readFile(path))
    if (lease.expiresMs > now) leases.push(lease)
    // On a disk that cannot be written it stays, and protects nothing.
    else await unlink(path).catch(() => undefined)
  }
  return leases
}

const parseLease = (bytes: Buffer): InheritedLease => {
  const hashes: BlobHash[] = []
  let expiresMs = 0
  for (let at = 0; at + recordBytes <= bytes.length; at += recordBytes) {
    const each = bytes.subarray(at, at + recordBytes)
    if (crc32(each.subarray(0, recordBytes - 4)) !== each.readUInt32LE(recordBytes - 4)) break
    if (each[0] === HOLD) hashes.push(blobHashSchema.parse(each.toString('hex', 1, recordBytes - 4)))
    if (each[0] === EXPIRY) expiresMs = Number(each.readBigUInt64LE(1))
  }
  return { expiresMs, hashes }
}
