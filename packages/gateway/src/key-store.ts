import { hash, randomBytes } from 'node:crypto'
import { chmodSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import {
  type ApiKey,
  BrambleError,
  type KeyId,
  type KeyRequest,
  keySchema,
  type NewApiKey,
  newId,
} from '@bramble/protocol'
import type { Caller } from './auth.ts'
import { tokenBucket } from './rate-limit.ts'

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
  dirty: boolean
}

const FLUSH_MS = 60_000

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,
    quota TEXT NOT NULL,
    created_at TEXT NOT NULL,
    last_used_at TEXT
  ) STRICT`

export const newKeyText = (): string => `bramble_${randomBytes(32).toString('base64url')}`

const hashOf = (key: string): string => hash('sha256', key, 'hex')

export const openKeyStore = async (path: string): Promise<KeyStore> => {
  const database = new DatabaseSync(path)
  chmodSync(path, 0o600)
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000')
  database.exec(SCHEMA)
  const insert = database.prepare('INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)')
  const remove = database.prepare('DELETE FROM keys WHERE id = ?')
  const touch = database.prepare('UPDATE keys SET last_used_at = ? WHERE id = ?')

  const byHash = new Map<string, Entry>()
  for (const row of database.prepare('SELECT * FROM keys ORDER BY id').all()) {
    const entry = entryOf(String(row.hash), keyOfRow(row))
    byHash.set(entry.hash, entry)
  }
  const entryOfId = (id: string): Entry | undefined => byHash.values().find((entry) => entry.key.id === id)

  const flush = (): void => {
    for (const entry of byHash.values()) {
      if (!entry.dirty || entry.lastUsedMs === undefined) continue
      entry.dirty = false
      touch.run(new Date(entry.lastUsedMs).toISOString(), entry.key.id)
    }
  }
  const timer = setInterval(flush, FLUSH_MS)
  timer.unref()
  let open = true
  const close = async (): Promise<void> => {
    if (!open) return
    open = false
    clearInterval(timer)
    flush()
    database.close()
  }

  return {
    find: (key) => {
      const entry = byHash.get(hashOf(key))
      if (entry) {
        entry.lastUsedMs = Date.now()
        entry.dirty = true
      }
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
      const entry = entryOf(hashOf(text), key)
      const { id, name, tenant, scopes, quota, createdAt } = key
      insert.run(id, entry.hash, name, tenant, JSON.stringify(scopes), JSON.stringify(quota), createdAt, null)
      byHash.set(entry.hash, entry)
      return { ...key, key: text }
    },
    remove: async (id) => {
      const entry = entryOfId(id)
      if (!entry) throw new BrambleError('not_found', { detail: `there is no key \`${id}\`` })
      const admins = [...byHash.values()].filter(({ scopes }) => scopes.includes('admin'))
      if (admins.length === 1 && admins[0] === entry)
        throw new BrambleError('conflict', { detail: 'this is the last key with the scope `admin`' })
      remove.run(id)
      byHash.delete(entry.hash)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const keyOfRow = (row: Record<string, unknown>): ApiKey =>
  keySchema.parse({
    id: row.id,
    name: row.name,
    tenant: row.tenant,
    scopes: JSON.parse(String(row.scopes)),
    quota: JSON.parse(String(row.quota)),
    createdAt: row.created_at,
    lastUsedAt: row.last_used_at,
  })

const entryOf = (keyHash: string, key: ApiKey): Entry => ({
  hash: keyHash,
  key,
  tenant: key.tenant,
  keyId: key.id,
  scopes: key.scopes,
  quota: key.quota,
  bucket: key.quota.requestsPerSecond === undefined ? undefined : tokenBucket(key.quota.requestsPerSecond),
  lastUsedMs: undefined,
  dirty: false,
})

const shown = ({ key, lastUsedMs }: Entry): ApiKey =>
  lastUsedMs === undefined ? key : { ...key, lastUsedAt: new Date(lastUsedMs).toISOString() }
