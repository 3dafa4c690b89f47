import type { Migration } from './migrate.ts'

/** What a tenant may use of the blobs of the node. Times are milliseconds since 1970. */
export interface BlobGrantRow {
  tenant: string
  hash: string
  size_bytes: number
  origin: 'put' | 'result'
  created_ms: number
  expires_ms: number
}

export interface BlobTables {
  blob_grants: BlobGrantRow
}

export const BLOB_MIGRATIONS: readonly Migration[] = [
  {
    name: '001-blob-grants',
    up: async (db) => {
      await db.schema
        .createTable('blob_grants')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('hash', 'text', (column) => column.notNull())
        .addColumn('size_bytes', 'bigint', (column) => column.notNull())
        .addColumn('origin', 'text', (column) => column.notNull())
        .addColumn('created_ms', 'bigint', (column) => column.notNull())
        .addColumn('expires_ms', 'bigint', (column) => column.notNull())
        .addPrimaryKeyConstraint('blob_grants_pk', ['tenant', 'hash'])
        .execute()
      await db.schema.createIndex('blob_grants_by_expiry').on('blob_grants').columns(['expires_ms']).execute()
    },
  },
]
