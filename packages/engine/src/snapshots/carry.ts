import type { BlobHash, Snapshot } from '@bramble/protocol'
import type { InstanceContext } from '../instances/instances.ts'
import type { SnapshotRow } from '../store/snapshot-tables.ts'
import { insertSnapshot, snapshotsByHash } from '../store/snapshots.ts'
import { exportSnapshot } from './archive/export-snapshot.ts'
import { type ImportedSnapshot, importSnapshot } from './archive/import-snapshot.ts'
import { type Context, timeText } from './context.ts'
import { assertRoom, LEASE_MS, memoryText } from './keep.ts'
import { snapshotOf } from './record.ts'
import { findSnapshot, mirror } from './registry.ts'
import type { ExportOptions, ImportRequest } from './snapshots.ts'
import { signalOf } from './take.ts'

/** `export` of `Snapshots`. */
export const exportOf = async (
  context: Context,
  ref: string,
  tenant: string,
  { memory, signal }: ExportOptions,
): Promise<AsyncIterable<Uint8Array>> => {
  const row = await findSnapshot(context, ref, tenant)
  return await exportSnapshot({ store: context.blobs, hash: row.hash as BlobHash, memory, signal })
}

/** `import` of `Snapshots`. */
export const importOf = async (
  context: Context,
  source: AsyncIterable<Uint8Array>,
  request: ImportRequest,
  owner: InstanceContext,
): Promise<Snapshot> => {
  const { blobs, stagingDirectory } = context
  await assertRoom(context, owner)
  await using lease = await blobs.leases.acquire({ ttlMs: LEASE_MS })
  const signal = signalOf(context, owner)
  const imported = await importSnapshot({ store: blobs, source, stagingDirectory, lease, signal })
  await assertRoom(context, owner, imported.newStoredBytes)
  const [known] = await snapshotsByHash(context.db, owner.tenant, imported.hash)
  const row = rowOf(context, imported, request, owner, known)
  const { parent } = imported.manifest
  await insertSnapshot(context.db, { row, parents: parent === undefined ? [] : [parent] })
  await mirror(context, row)
  context.notice({ type: 'snapshot', origin: 'import' })
  return snapshotOf(row)
}

/** Equal bytes have been made here where the tenant has had the same snapshot: they are trusted as before. */
const rowOf = (
  { clock }: Context,
  { manifest, hash, newStoredBytes }: ImportedSnapshot,
  { name, labels = {}, trustMemory = false }: ImportRequest,
  { tenant, keyId }: InstanceContext,
  known: SnapshotRow | undefined,
): SnapshotRow => ({
  tenant,
  hash,
  key_id: keyId,
  name: name ?? null,
  labels: JSON.stringify(labels),
  origin: 'import',
  source: null,
  parent: manifest.parent ?? null,
  image: manifest.image.name ?? manifest.image.digest,
  image_digest: manifest.image.digest,
  entries: manifest.filesystem.entries,
  files_bytes: manifest.filesystem.sizeBytes,
  memory: manifest.memory ? memoryText(manifest.memory) : null,
  trusted: Number(trustMemory || known?.trusted === 1),
  added_bytes: newStoredBytes + (known?.added_bytes ?? 0),
  frozen_ms: null,
  created_at: timeText(clock.now()),
  expires_at: null,
  stored: 'local',
  mirrored: 0,
})
