import type { Pool } from '@bramble/sdk'
import type { Column } from './terminal.ts'

/** A warm pool as `pools` and `prewarm` show it. */
export const poolColumns: Column<Pool>[] = [
  { title: 'IMAGE', text: (pool) => pool.image.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+$/, '$1') },
  { title: 'RUNTIME', text: (pool) => pool.runtime },
  { title: 'CPUS', text: (pool) => String(pool.resources.cpus), right: true },
  { title: 'MEMORY', text: (pool) => `${pool.resources.memoryMb} MiB`, right: true },
  { title: 'READY', text: (pool) => String(pool.ready), right: true },
  { title: 'STARTING', text: (pool) => String(pool.starting), right: true },
  { title: 'TARGET', text: (pool) => String(pool.target), right: true },
  { title: 'FLOOR', text: (pool) => String(pool.floor), right: true },
  { title: 'HITS', text: (pool) => String(pool.hits), right: true },
  { title: 'MISSES', text: (pool) => String(pool.misses), right: true },
]
