import type { Snapshot } from '@bramble/protocol'
import type { Migration } from './migrate.ts'

/** Times are RFC 3339 text; JSON is text; booleans are 0 or 1. */
export interface SnapshotRow {
  tenant: string
  /** Of its manifest. */
  hash: string
  /** Whose quota it counts toward. */
  key_id: string
  name: string | null
  labels: string
  origin: Snapshot['origin']
  source: string | null
  /** The snapshot that it was made from. */
  parent: string | null
  image: string
  image_digest: string
  entries: number
  files_bytes: number
  /** `Snapshot.memory` without `trusted`. JSON. */
  memory: string | null
  trusted: number
  added_bytes: number
  frozen_ms: number | null
  created_at: string
  expires_at: string | null
  stored: Snapshot['stored']
  /** Other nodes can find it by the store's names: they say what this row says. */
  mirrored: number
}

export interface SnapshotLabelRow {
  tenant: string
  hash: string
  name: string
  value: string
}

/** A state that the runtime keeps on this host. */
export interface SealRow {
  name: string
  runtime: string
  tenant: string
  /** The hash of the snapshot that has the same state, or its own name: it is what branches have in common. */
  state: string
  memory: number
  image_digest: string
  /** Of the instance that it was taken of: `InstanceSpec`. JSON. */
  spec: string | null
  used_bytes: number
  created_at: string
  used_at: string
}

/** A state that others were made from. Its bytes may be gone, who descends from whom is still known. */
export interface StateRow {
  /** Hash of a snapshot, or name of a seal. */
  state: string
  tenant: string
  /** JSON. */
  parents: string
  /** What it is a state of: an instance, an execution. */
  source: string | null
  created_at: string
}

/** An instance that continued from a state. */
export interface BranchRow {
  instance_id: string
  tenant: string
  parent: string
  parent_kind: 'instance' | 'snapshot'
  /** The state that it began as. */
  state: string
  memory: number
  created_at: string
}

/** The newest state that is known of an instance. */
export interface HeadRow {
  instance_id: string
  tenant: string
  state: string
}

export interface SnapshotTables {
  snapshots: SnapshotRow
  snapshot_labels: SnapshotLabelRow
  seals: SealRow
  states: StateRow
  branches: BranchRow
  heads: HeadRow
}

export const SNAPSHOT_MIGRATIONS: readonly Migration[] = [
  {
    name: '001-snapshots',
    up: async (db) => {
      await db.schema
        .createTable('snapshots')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('hash', 'text', (column) => column.notNull())
        .addColumn('key_id', 'text', (column) => column.notNull())
        .addColumn('name', 'text')
        .addColumn('labels', 'text', (column) => column.notNull())
        .addColumn('origin', 'text', (column) => column.notNull())
        .addColumn('source', 'text')
        .addColumn('parent', 'text')
        .addColumn('image', 'text', (column) => column.notNull())
        .addColumn('image_digest', 'text', (column) => column.notNull())
        .addColumn('entries', 'bigint', (column) => column.notNull())
        .addColumn('files_bytes', 'bigint', (column) => column.notNull())
        .addColumn('memory', 'text')
        .addColumn('trusted', 'integer', (column) => column.notNull())
        .addColumn('added_bytes', 'bigint', (column) => column.notNull())
        .addColumn('frozen_ms', 'double precision')
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addColumn('expires_at', 'text')
        .addColumn('stored', 'text', (column) => column.notNull())
        .addColumn('mirrored', 'integer', (column) => column.notNull())
        .addPrimaryKeyConstraint('snapshots_pk', ['tenant', 'hash'])
        .execute()
      for (const [name, columns] of [
        ['snapshots_by_time', ['tenant', 'created_at', 'hash']],
        ['snapshots_by_name', ['tenant', 'name', 'created_at']],
        ['snapshots_by_source', ['tenant', 'source', 'created_at']],
        ['snapshots_by_expiry', ['expires_at']],
      ] as const)
        await db.schema
          .createIndex(name)
          .on('snapshots')
          .columns([...columns])
          .execute()
      await db.schema
        .createTable('snapshot_labels')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('hash', 'text', (column) => column.notNull())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('value', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('snapshot_labels_pk', ['tenant', 'hash', 'name'])
        .execute()
      await db.schema
        .createIndex('snapshot_labels_by_name')
        .on('snapshot_labels')
        .columns(['tenant', 'name', 'value', 'hash'])
        .execute()
      await db.schema
        .createTable('seals')
        .addColumn('name', 'text', (column) => column.primaryKey())
        .addColumn('runtime', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('state', 'text', (column) => column.notNull())
        .addColumn('memory', 'integer', (column) => column.notNull())
        .addColumn('image_digest', 'text', (column) => column.notNull())
        .addColumn('spec', 'text')
        .addColumn('used_bytes', 'bigint', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addColumn('used_at', 'text', (column) => column.notNull())
        .execute()
      await db.schema.createIndex('seals_by_state').on('seals').columns(['state', 'tenant']).execute()
      await db.schema
        .createTable('states')
        .addColumn('state', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('parents', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('states_pk', ['tenant', 'state'])
        .execute()
      await db.schema
        .createTable('branches')
        .addColumn('instance_id', 'text', (column) => column.primaryKey())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('parent', 'text', (column) => column.notNull())
        .addColumn('parent_kind', 'text', (column) => column.notNull())
        .addColumn('state', 'text', (column) => column.notNull())
        .addColumn('memory', 'integer', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .execute()
      await db.schema.createIndex('branches_by_tenant').on('branches').columns(['tenant', 'instance_id']).execute()
      await db.schema.createIndex('branches_by_parent').on('branches').columns(['tenant', 'parent']).execute()
      await db.schema
        .createTable('heads')
        .addColumn('instance_id', 'text', (column) => column.primaryKey())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('state', 'text', (column) => column.notNull())
        .execute()
    },
  },
  {
    name: '002-sources-of-states',
    up: async (db) => {
      await db.schema.alterTable('states').addColumn('source', 'text').execute()
    },
  },
]
