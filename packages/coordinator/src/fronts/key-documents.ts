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
import type { FastifyBaseLogger } from 'fastify'
import type { Network } from '../network/network.ts'
import type { Store } from '../store/store.ts'

/**
 * The API keys of a network, as documents in its store: the same at every coordinator. All are in memory; the store is asked again
 * after `cacheMs`, and at once for a key that is not known. Only the SHA-256 of a key is kept. Where the store does not answer,
 * keys are what they were.
 *
 * Errors: `not_found`, and `conflict` for the last admin key.
 */
export interface KeyDocuments {
  /** The caller that `text` stands for; at once where that is known. */
  find(text: string): Caller | undefined | Promise<Caller | undefined>
  list(): Promise<ApiKey[]>
  create(request: KeyRequest, text?: string): Promise<NewApiKey>
  remove(id: KeyId): Promise<void>
}

export interface KeyDocumentsOptions {
  readonly store: Pick<Store, 'documents'>
  readonly network: Pick<Network, 'putDocument'>
  readonly cacheMs: number
  /** Of keys that have no rate of their own; those of administrators have none. */
  readonly requestsPerSecond: number
  readonly log?: Pick<FastifyBaseLogger, 'warn'> | undefined
  readonly now?: () => number
}

interface Entry {
  readonly caller: Caller
  readonly key: ApiKey
  readonly hash: string
  lastUsedMs: number | undefined
}

const storedKeySchema = keySchema.omit({ lastUsedAt: true }).extend({ hash: keySchema.shape.name })

/** The store is not asked more often than that for keys that nobody knows. */
const UNKNOWN_MS = 250

export const openKeyDocuments = async (options: KeyDocumentsOptions): Promise<KeyDocuments> => {
  const { store, network, cacheMs, requestsPerSecond, log, now = performance.now.bind(performance) } = options
  const entryOf = (hash: string, key: ApiKey): Entry => {
    const quota = key.scopes.includes('admin') ? key.quota : { requestsPerSecond, ...key.quota }
    return { caller: callerOf({ ...key, quota }), key, hash, lastUsedMs: undefined }
  }
  let byHash = new Map<string, Entry>()
  let readAt = Number.NEGATIVE_INFINITY
  let reading: Promise<void> | undefined

  const read = async (): Promise<void> => {
    const began = now()
    const documents = await store.documents('key')
    const fresh = new Map<string, Entry>()
    for (const { value } of documents) {
      const { hash, ...stored } = storedKeySchema.parse(value)
      // The same entry as before, with its rate and its last use: keys do not change.
      const known = byHash.get(hash)
      const key = { ...stored, lastUsedAt: null }
      fresh.set(hash, known ?? entryOf(hash, key))
    }
    byHash = fresh
    readAt = began
  }
  const readOnce = (): Promise<void> => {
    reading ??= read().finally(() => {
      reading = undefined
    })
    return reading
  }
  const readOrKeep = (): Promise<void> =>
    readOnce().catch((err: unknown) => {
      readAt = now()
      log?.warn({ err }, 'API keys could not be read; they are taken for what they were')
    })

  const use = (hash: string): Caller | undefined => {
    const entry = byHash.get(hash)
    if (entry) entry.lastUsedMs = Date.now()
    return entry?.caller
  }
  const byId = (id: KeyId): Entry | undefined => byHash.values().find(({ key }) => key.id === id)
  await readOnce()

  return {
    find: (text) => {
      const hash = hashOfKey(text)
      const age = now() - readAt
      if (age <= (byHash.has(hash) ? cacheMs : UNKNOWN_MS)) return use(hash)
      return readOrKeep().then(() => use(hash))
    },
    list: async () => {
      await readOnce()
      return [...byHash.values()].map(shown)
    },
    create: async (request, text = newKeyText()) => {
      const hash = hashOfKey(text)
      const key: ApiKey = { id: newId('key'), ...request, createdAt: new Date().toISOString(), lastUsedAt: null }
      const { lastUsedAt: _unknown, ...stored } = key
      await network.putDocument('key', key.id, { ...stored, hash })
      byHash.set(hash, entryOf(hash, key))
      return { ...key, key: text }
    },
    remove: async (id) => {
      await readOnce()
      const entry = byId(id)
      if (!entry) throw new BrambleError('not_found', { detail: `there is no key \`${id}\`` })
      const admins = [...byHash.values()].filter(({ key }) => key.scopes.includes('admin'))
      if (admins.length === 1 && admins[0] === entry)
        throw new BrambleError('conflict', { detail: 'this is the last key with the scope `admin`' })
      await network.putDocument('key', id, undefined)
      byHash.delete(entry.hash)
    },
  }
}

const shown = ({ key, lastUsedMs }: Entry): ApiKey =>
  lastUsedMs === undefined ? key : { ...key, lastUsedAt: new Date(lastUsedMs).toISOString() }
