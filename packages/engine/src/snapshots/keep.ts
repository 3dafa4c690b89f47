import {
  type BlobHash,
  BrambleError,
  LIMITS,
  type MemoryRequirements,
  type Quota,
  type Snapshot,
  type SnapshotManifest,
} from '@bramble/protocol'
import type { LocalImage, Sealed } from '@bramble/runtime'
import type { SealRow, SnapshotRow } from '../store/snapshot-tables.ts'
import { insertSnapshot, storedBy } from '../store/snapshots.ts'
import type { Ancestor } from './content/known-contents.ts'
import { readManifest } from './content/manifest.ts'
import { storeSeal } from './content/store-seal.ts'
import { type Context, timeText } from './context.ts'
import { nearestSnapshot } from './lineage.ts'
import { snapshotOf } from './record.ts'
import { mirror } from './registry.ts'
import { findSeal, holdSeal, type Sealing } from './seals.ts'

/** How long a crash keeps blobs that no snapshot has. */
export const LEASE_MS = 10 * 60_000
const MIB = 1024 * 1024

export interface Owner {
  readonly tenant: string
  readonly keyId: string
  readonly quota?: Quota | undefined
}

/** What is written of a state beside its files and memory. */
export interface StateDescription {
  readonly image: LocalImage
  readonly imageName: string
  readonly config: SnapshotManifest['config']
  /** Of the instance that the seal was taken of. JSON. */
  readonly spec: string | null
}

export interface KeepRequest extends StateDescription {
  readonly owner: Owner
  readonly sealing: Sealing
  readonly sealed: Sealed
  readonly origin: Snapshot['origin']
  readonly source: string
  /** The states that it was made from. */
  readonly parents: readonly string[]
  /** The instance whose newest state it is. */
  readonly head?: string | undefined
  readonly name?: string | undefined
  readonly labels: Readonly<Record<string, string>>
  readonly ttlMs?: number | undefined
  readonly signal: AbortSignal
}

/** Throws `quota_exceeded` where nothing more may be kept. */
export const assertRoom = async ({ db }: Context, { tenant, keyId, quota }: Owner, addedBytes = 0): Promise<void> => {
  const { count, bytes } = await storedBy(db, tenant, keyId)
  const max = LIMITS.maxTenantSnapshots.value
  if (count >= max)
    throw new BrambleError('quota_exceeded', { detail: `the tenant has ${count} snapshots, and may have no more` })
  const storageMb = quota?.storageMb
  if (storageMb !== undefined && bytes + addedBytes > storageMb * MIB)
    throw new BrambleError('quota_exceeded', {
      detail: `its snapshots take ${Math.ceil((bytes + addedBytes) / MIB)} MiB, the key's quota is ${storageMb} MiB`,
    })
}

/**
 * Makes a snapshot of a seal: its blobs, then the record, then what other nodes are told. When it resolves, all that
 * this node needs of it is durable. What fails leaves blobs that the next collection removes; the seal is the caller's.
 */
export const keepSeal = async (context: Context, request: KeepRequest): Promise<Snapshot> => {
  const { blobs, clock, db } = context
  const { owner, sealing, sealed, image, parents, signal } = request
  const { tenant, keyId } = owner
  const takenMs = clock.now()
  await using lease = await blobs.leases.acquire({ ttlMs: LEASE_MS })
  const parent = await nearestSnapshot(context, tenant, parents)
  using ancestor = await ancestorOf(context, tenant, parent, sealing)
  const { manifest, hash, stats } = await storeSeal({
    store: blobs,
    seals: sealing.seals,
    seal: sealed.name,
    image,
    lease,
    signal,
    memory: sealed.memory,
    takenAt: timeText(takenMs),
    imageName: request.imageName,
    config: request.config,
    labels: request.labels,
    parent,
    ancestor,
  })
  await assertRoom(context, owner, stats.newStoredBytes)
  const now = timeText(takenMs)
  const row: SnapshotRow = {
    tenant,
    hash,
    key_id: keyId,
    name: request.name ?? null,
    labels: JSON.stringify(request.labels),
    origin: request.origin,
    source: request.source,
    parent: parent ?? null,
    image: request.imageName,
    image_digest: image.digest,
    entries: manifest.filesystem.entries,
    files_bytes: manifest.filesystem.sizeBytes,
    memory: manifest.memory ? memoryText(manifest.memory) : null,
    trusted: 1,
    added_bytes: stats.newStoredBytes,
    frozen_ms: sealed.frozenMs,
    created_at: now,
    expires_at: request.ttlMs === undefined ? null : timeText(takenMs + request.ttlMs),
    stored: 'local',
    mirrored: 0,
  }
  const seal: SealRow = {
    name: sealed.name,
    runtime: sealing.runtime.name,
    tenant,
    state: hash,
    memory: Number(sealed.memory),
    image_digest: image.digest,
    spec: request.spec,
    used_bytes: await sealing.seals.usedBytes(sealed.name),
    created_at: now,
    used_at: now,
  }
  await insertSnapshot(db, { row, parents, seal, ...(request.head !== undefined && { head: request.head }) })
  await mirror(context, row)
  return snapshotOf(row)
}

/** The snapshot that it descends from, where its seal is still here: files that did not change since are not read. */
const ancestorOf = async (
  context: Context,
  tenant: string,
  parent: BlobHash | undefined,
  { runtime }: Sealing,
): Promise<(Ancestor & Disposable) | undefined> => {
  const seal = parent === undefined ? undefined : await findSeal(context, tenant, parent, false)
  if (parent === undefined || seal?.runtime !== runtime.name) return undefined
  const hold = holdSeal(context, seal.name)
  try {
    const manifest = await readManifest(context.blobs, parent)
    return { manifest, seal: seal.name, [Symbol.dispose]: () => hold[Symbol.dispose]() }
  } catch (error) {
    // It only saves work.
    hold[Symbol.dispose]()
    context.log.info({ err: error, snapshot: parent }, 'what a snapshot descends from cannot be read')
    return undefined
  }
}

interface ManifestMemory {
  readonly sizeBytes: number
  readonly processes: readonly { pid: number; command: string }[]
  readonly ports: readonly number[]
  readonly requires: MemoryRequirements
}

export const memoryText = ({ sizeBytes, processes, ports, requires }: ManifestMemory): string =>
  JSON.stringify({ sizeBytes, processes, ports, requires })
