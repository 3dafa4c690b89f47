import type { ExecutionMode, ExecutionPhase } from '@bramble/protocol'
import type { Migration } from './migrate.ts'

/** Times are RFC 3339 text, which sorts as it reads; JSON is text. */
export interface ExecutionRow {
  id: string
  tenant: string
  key_id: string
  status: ExecutionPhase
  command: string
  image: string
  mode: ExecutionMode
  runtime: string | null
  labels: string
  exit_code: number | null
  message: string | null
  created_at: string
  finished_at: string | null
  /** The result, where there is one. */
  result: string | null
  /** Of the texts above, roughly: what the row costs. */
  size_bytes: number
}

export interface LabelRow {
  execution_id: string
  tenant: string
  name: string
  value: string
}

/** One hour of one key. */
export interface UsageHourRow {
  tenant: string
  key_id: string
  hour: string
  executions: number
  cpu_seconds: number
  memory_gb_seconds: number
  egress_bytes: number
}

export interface EngineTables {
  executions: ExecutionRow
  execution_labels: LabelRow
  usage_hours: UsageHourRow
}

export const ENGINE_MIGRATIONS: readonly Migration[] = [
  {
    name: '001-executions',
    up: async (db) => {
      await db.schema
        .createTable('executions')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('key_id', 'text', (column) => column.notNull())
        .addColumn('status', 'text', (column) => column.notNull())
        .addColumn('command', 'text', (column) => column.notNull())
        .addColumn('image', 'text', (column) => column.notNull())
        .addColumn('mode', 'text', (column) => column.notNull())
        .addColumn('runtime', 'text')
        .addColumn('labels', 'text', (column) => column.notNull())
        .addColumn('exit_code', 'integer')
        .addColumn('message', 'text')
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addColumn('finished_at', 'text')
        .addColumn('result', 'text')
        .addColumn('size_bytes', 'integer', (column) => column.notNull())
        .execute()
      await db.schema.createIndex('executions_by_tenant').on('executions').columns(['tenant', 'id']).execute()
      await db.schema.createIndex('executions_by_status').on('executions').columns(['status', 'tenant', 'id']).execute()
      await db.schema
        .createTable('execution_labels')
        .addColumn('execution_id', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('value', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('execution_labels_pk', ['execution_id', 'name'])
        .execute()
      await db.schema
        .createIndex('execution_labels_by_name')
        .on('execution_labels')
        .columns(['tenant', 'name', 'value', 'execution_id'])
        .execute()
    },
  },
  {
    name: '002-usage',
    up: async (db) => {
      await db.schema
        .createTable('usage_hours')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('key_id', 'text', (column) => column.notNull())
        .addColumn('hour', 'text', (column) => column.notNull())
        .addColumn('executions', 'integer', (column) => column.notNull())
        .addColumn('cpu_seconds', 'double precision', (column) => column.notNull())
        .addColumn('memory_gb_seconds', 'double precision', (column) => column.notNull())
        .addColumn('egress_bytes', 'double precision', (column) => column.notNull())
        .addPrimaryKeyConstraint('usage_hours_pk', ['hour', 'tenant', 'key_id'])
        .execute()
    },
  },
]
