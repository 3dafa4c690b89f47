import type { CacheName } from '@bramble/protocol'
import type { Migration } from './migrate.ts'

export interface VolumeRow {
  tenant: string
  name: string
  /** Its name in the runtime's store. */
  key: string
  size_mb: number
  labels: string
  created_at: string
}

/** The newest generation of a tenant's cache; of the tenant `''`, the seed. */
export interface CacheRow {
  tenant: string
  cache: CacheName
  generation: string
  /** Of the files in it. The disk counts bytes for who wrote them, which is not the generation that shares them. */
  bytes: number
  created_at: string
}

export interface VolumeTables {
  volumes: VolumeRow
  caches: CacheRow
}

export const VOLUME_MIGRATIONS: readonly Migration[] = [
  {
    name: '001-volumes',
    up: async (db) => {
      await db.schema
        .createTable('volumes')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('key', 'text', (column) => column.notNull())
        .addColumn('size_mb', 'integer', (column) => column.notNull())
        .addColumn('labels', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('volumes_pk', ['tenant', 'name'])
        .execute()
      await db.schema
        .createTable('caches')
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('cache', 'text', (column) => column.notNull())
        .addColumn('generation', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('caches_pk', ['tenant', 'cache'])
        .execute()
    },
  },
  {
    name: '002-cache-bytes',
    up: async (db) => {
      await db.schema
        .alterTable('caches')
        .addColumn('bytes', 'bigint', (column) => column.notNull().defaultTo(0))
        .execute()
    },
  },
]
