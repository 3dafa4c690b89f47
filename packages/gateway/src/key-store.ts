import { chmod } from 'node:fs/promises'
import { type Migration, openDatabase } from '@bramble/engine'
import { type Caller, callerOf, hashOfKey, newKeyText } from '@bramble/http'
import {
  type ApiKey,
  BrambleError,
  type KeyId,
  type KeyRequest,
  keySchema,
  type NewApiKey,
  newId,
} from '@bramble/protocol'

/**
 * The API keys of one node. A key is 256 random bits; only its SHA-256 is kept, which is enough for what cannot be
 * guessed, and makes the look-up by hash tell nothing by its time. All keys are in memory, so finding one costs no I/O;
 * making and deleting one is on disk before the call returns.
 *
 * Errors: `not_found`, and `conflict` for the last admin key.
 */
export interface KeyStore extends AsyncDisposable {
  /** The caller that `key` stands for. */
  find(key: string): Caller | undefined
  list(): ApiKey[]
  create(request: KeyRequest, key?: string): Promise<NewApiKey>
  /** From here on `find` no longer knows it. */
  remove(id: KeyId): Promise<void>
  close(): Promise<void>
}

interface Entry extends Caller {
  readonly hash: string
  readonly key: ApiKey
  lastUsedMs: number | undefined
  /** What the disk has of it. */
  writtenMs: number | undefined
}

const FLUSH_MS = 60_000

interface KeyRow {
  id: string
  hash: string
  name: string
  tenant: string
  /** JSON, like the quota. */
  scopes: string
  quota: string
  created_at: string
  last_used_at: string | null
}

const MIGRATIONS: readonly Migration[] = [
  {
    name: '1-keys',
    up: async (db) => {
      await db.schema
        .createTable('keys')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('hash', 'text', (column) => column.notNull().unique())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('scopes', 'text', (column) => column.notNull())
        .addColumn('quota', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addColumn('last_used_at', 'text')
        .execute()
    },
  },
]

export const openKeyStore = async (path: string): Promise<KeyStore> => {
  const db = await openDatabase<{ keys: KeyRow }>({ path, owner: 'gateway', migrations: MIGRATIONS })
  await chmod(path, 0o600)
  const byHash = new Map<string, Entry>()
  for (const row of await db.selectFrom('keys').selectAll().orderBy('id').execute())
    byHash.set(row.hash, entryOf(row.hash, keyOfRow(row)))
  const entryOfId = (id: string): Entry | undefined => byHash.values().find((entry) => entry.key.id === id)

  const flush = async (): Promise<void> => {
    for (const entry of byHash.values()) {
      const { lastUsedMs } = entry
      if (lastUsedMs === undefined || lastUsedMs === entry.writtenMs) continue
      const last_used_at = new Date(lastUsedMs).toISOString()
      await db.updateTable('keys').set({ last_used_at }).where('id', '=', entry.key.id).execute()
      entry.writtenMs = lastUsedMs
    }
  }
  // When a key was last used is good to know, and no reason to fail: what is not written is tried again at `close`.
  const timer = setInterval(() => void flush().catch(() => {}), FLUSH_MS)
  timer.unref()
  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    clearInterval(timer)
    await flush().finally(() => db.destroy())
  }
  const close = (): Promise<void> => {
    closed ??= closeOnce()
    return closed
  }

  return {
    find: (key) => {
      const entry = byHash.get(hashOfKey(key))
      if (entry) entry.lastUsedMs = Date.now()
      return entry
    },
    list: () => [...byHash.values()].map(shown),
    create: async (request, text = newKeyText()) => {
      const key: ApiKey = {
        id: newId('key'),
        ...request,
        createdAt: new Date().toISOString(),
        lastUsedAt: null,
      }
      const entry = entryOf(hashOfKey(text), key)
      await db.insertInto('keys').values(rowOf(entry)).execute()
      byHash.set(entry.hash, entry)
      return { ...key, key: text }
    },
    remove: async (id) => {
      const entry = entryOfId(id)
      if (!entry) throw new BrambleError('not_found', { detail: `there is no key \`${id}\`` })
      const admins = [...byHash.values()].filter(({ scopes }) => scopes.includes('admin'))
      if (admins.length === 1 && admins[0] === entry)
        throw new BrambleError('conflict', { detail: 'this is the last key with the scope `admin`' })
      // First, so that it takes effect at once; back where the disk says no.
      byHash.delete(entry.hash)
      try {
        await db.deleteFrom('keys').where('id', '=', id).execute()
      } catch (error) {
        byHash.set(entry.hash, entry)
        throw error
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const keyOfRow = (row: KeyRow): ApiKey =>
  keySchema.parse({
    id: row.id,
    name: row.name,
    tenant: row.tenant,
    scopes: JSON.parse(row.scopes),
    quota: JSON.parse(row.quota),
    createdAt: row.created_at,
    lastUsedAt: row.last_used_at,
  })

const rowOf = ({ hash, key }: Entry): KeyRow => ({
  id: key.id,
  hash,
  name: key.name,
  tenant: key.tenant,
  scopes: JSON.stringify(key.scopes),
  quota: JSON.stringify(key.quota),
  created_at: key.createdAt,
  last_used_at: key.lastUsedAt,
})

const entryOf = (keyHash: string, key: ApiKey): Entry => ({
  ...callerOf(key),
  hash: keyHash,
  key,
  lastUsedMs: undefined,
  writtenMs: undefined,
})

const shown = ({ key, lastUsedMs }: Entry): ApiKey =>
  lastUsedMs === undefined ? key : { ...key, lastUsedAt: new Date(lastUsedMs).toISOString() }
