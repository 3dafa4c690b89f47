import type { InstanceStatus } from '@bramble/protocol'
import type { Migration } from './migrate.ts'

/** Times are RFC 3339 text; JSON is text; booleans are 0 or 1. */
export interface InstanceRow {
  id: string
  tenant: string
  key_id: string
  /** Of the key that made it: it pays whenever the instance is started. JSON. */
  quota: string
  name: string | null
  status: InstanceStatus
  /** It is being deleted: what is left of it is removed at the next start. */
  doomed: number
  /** It ran once: before that, a failure leaves nothing. */
  made: number
  reason: string | null
  spec: string
  image_digest: string
  runtime: string
  sandbox_id: string | null
  layer: string
  /** What is mounted in the sandbox. JSON. */
  mounts: string
  /** How often it was started. */
  run: number
  created_at: string
  started_at: string | null
  expires_at: string | null
  /** When it was used last; null while the node runs. */
  used_at: string | null
  /** What of the present sandbox has been charged to the key. */
  charged_at: string | null
  charged_cpu_ms: number
  charged_egress_bytes: number
  /** The snapshot that a paused one was saved to, or that one stopped since then still begins with. */
  snapshot_id: string | null
  /** The instance or snapshot that it began as. */
  parent: string | null
}

export interface InstanceLabelRow {
  instance_id: string
  tenant: string
  name: string
  value: string
}

export interface ExposureRow {
  instance_id: string
  port: number
  visibility: 'private' | 'public'
  created_at: string
}

export interface InstanceTables {
  instances: InstanceRow
  instance_labels: InstanceLabelRow
  instance_exposures: ExposureRow
}

export const INSTANCE_MIGRATIONS: readonly Migration[] = [
  {
    name: '001-instances',
    up: async (db) => {
      await db.schema
        .createTable('instances')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('key_id', 'text', (column) => column.notNull())
        .addColumn('quota', 'text', (column) => column.notNull())
        .addColumn('name', 'text')
        .addColumn('status', 'text', (column) => column.notNull())
        .addColumn('doomed', 'integer', (column) => column.notNull())
        .addColumn('made', 'integer', (column) => column.notNull())
        .addColumn('reason', 'text')
        .addColumn('spec', 'text', (column) => column.notNull())
        .addColumn('image_digest', 'text', (column) => column.notNull())
        .addColumn('runtime', 'text', (column) => column.notNull())
        .addColumn('sandbox_id', 'text')
        .addColumn('layer', 'text', (column) => column.notNull())
        .addColumn('mounts', 'text', (column) => column.notNull())
        .addColumn('run', 'integer', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addColumn('started_at', 'text')
        .addColumn('expires_at', 'text')
        .addColumn('used_at', 'text')
        .addColumn('charged_at', 'text')
        .addColumn('charged_cpu_ms', 'double precision', (column) => column.notNull())
        .addColumn('charged_egress_bytes', 'double precision', (column) => column.notNull())
        // Rows without a name never equal each other, in SQLite and in PostgreSQL.
        .addUniqueConstraint('instances_name', ['tenant', 'name'])
        .execute()
      await db.schema.createIndex('instances_by_tenant').on('instances').columns(['tenant', 'id']).execute()
      await db.schema
        .createTable('instance_labels')
        .addColumn('instance_id', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('value', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('instance_labels_pk', ['instance_id', 'name'])
        .execute()
      await db.schema
        .createIndex('instance_labels_by_name')
        .on('instance_labels')
        .columns(['tenant', 'name', 'value', 'instance_id'])
        .execute()
      await db.schema
        .createTable('instance_exposures')
        .addColumn('instance_id', 'text', (column) => column.notNull())
        .addColumn('port', 'integer', (column) => column.notNull())
        .addColumn('visibility', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('instance_exposures_pk', ['instance_id', 'port'])
        .execute()
    },
  },
  {
    name: '002-states',
    up: async (db) => {
      await db.schema.alterTable('instances').addColumn('snapshot_id', 'text').execute()
      await db.schema.alterTable('instances').addColumn('parent', 'text').execute()
    },
  },
]
