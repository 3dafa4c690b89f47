import { createHash } from 'node:crypto'
import {
  type BlobHash,
  blobHashSchema,
  labelsSchema,
  memoryRequirementsSchema,
  type Snapshot,
  snapshotNameSchema,
  snapshotOriginSchema,
} from '@bramble/protocol'
import { z } from 'zod'
import { parseJsonValue } from '../json-blob.ts'
import type { SnapshotRow } from '../store/snapshot-tables.ts'

const memorySchema = z.object({
  sizeBytes: z.number().int().min(0),
  processes: z.array(z.object({ pid: z.number().int(), command: z.string() })),
  ports: z.array(z.number().int()),
  requires: memoryRequirementsSchema,
})
type Memory = z.infer<typeof memorySchema>

/** A snapshot as the names of the store tell of it to other nodes. */
const recordSchema = z.strictObject({
  version: z.literal(1),
  id: blobHashSchema,
  tenant: z.string(),
  keyId: z.string(),
  name: snapshotNameSchema.nullable(),
  labels: labelsSchema,
  origin: snapshotOriginSchema,
  source: z.string().nullable(),
  parent: blobHashSchema.nullable(),
  /** Snapshots that it descends from directly. */
  parents: z.array(z.string().max(64)).max(64),
  image: z.string(),
  imageDigest: z.string(),
  entries: z.number().int().min(0),
  filesBytes: z.number().int().min(0),
  memory: memorySchema.nullable(),
  trusted: z.boolean(),
  addedBytes: z.number().int().min(0),
  frozenMs: z.number().nullable(),
  createdAt: z.iso.datetime(),
  expiresAt: z.iso.datetime().nullable(),
})
export type SnapshotRecord = z.infer<typeof recordSchema>

/** The names by which other nodes find a tenant's snapshots: one by its hash, and the newest of each name. */
export const recordName = (tenant: string, hash: string): string => `snapshots/${tenant}/${hash}`
/** A name may be longer than a part of a store's name. */
export const pointerName = (tenant: string, name: string): string =>
  `snapshot-names/${tenant}/${createHash('sha256').update(name).digest('hex')}`

/** Undefined: it is none, or not the one of that name. */
export const parseRecord = (bytes: Uint8Array, tenant: string, hash: string): SnapshotRecord | undefined => {
  const record = parseJsonValue(bytes, recordSchema)
  return record?.tenant === tenant && record.id === hash ? record : undefined
}

export const recordOf = (row: SnapshotRow, parents: readonly string[]): Buffer => {
  const record: SnapshotRecord = {
    version: 1,
    id: row.hash as BlobHash,
    tenant: row.tenant,
    keyId: row.key_id,
    name: row.name,
    labels: JSON.parse(row.labels) as Record<string, string>,
    origin: row.origin,
    source: row.source,
    parent: row.parent as BlobHash | null,
    parents: [...parents],
    image: row.image,
    imageDigest: row.image_digest,
    entries: row.entries,
    filesBytes: row.files_bytes,
    memory: memoryOf(row) ?? null,
    trusted: row.trusted === 1,
    addedBytes: row.added_bytes,
    frozenMs: row.frozen_ms,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
  }
  return Buffer.from(JSON.stringify(record))
}

export const rowOfRecord = (record: SnapshotRecord): SnapshotRow => ({
  tenant: record.tenant,
  hash: record.id,
  key_id: record.keyId,
  name: record.name,
  labels: JSON.stringify(record.labels),
  origin: record.origin,
  source: record.source,
  parent: record.parent,
  image: record.image,
  image_digest: record.imageDigest,
  entries: record.entries,
  files_bytes: record.filesBytes,
  memory: record.memory && JSON.stringify(record.memory),
  trusted: Number(record.trusted),
  added_bytes: record.addedBytes,
  frozen_ms: record.frozenMs,
  created_at: record.createdAt,
  expires_at: record.expiresAt,
  stored: 'shared',
  mirrored: 1,
})

export const memoryOf = ({ memory }: SnapshotRow): Memory | undefined =>
  memory === null ? undefined : (JSON.parse(memory) as Memory)

export const snapshotOf = (row: SnapshotRow): Snapshot => {
  const memory = memoryOf(row)
  return {
    id: row.hash as BlobHash,
    ...(row.name !== null && { name: row.name }),
    tenant: row.tenant,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    origin: row.origin,
    ...(row.source !== null && { source: row.source }),
    ...(row.parent !== null && { parent: row.parent as BlobHash }),
    image: row.image,
    imageDigest: row.image_digest,
    entries: row.entries,
    filesBytes: row.files_bytes,
    ...(memory && { memory: { ...memory, trusted: row.trusted === 1 } }),
    addedBytes: row.added_bytes,
    ...(row.frozen_ms !== null && { frozenMs: row.frozen_ms }),
    labels: JSON.parse(row.labels) as Record<string, string>,
    stored: row.stored,
  }
}
