import { randomBytes } from 'node:crypto'
import type { BlobStore } from '@bramble/blobs'
import { z } from 'zod'
import type { Clock, Log } from '../options.ts'
import { invalidationsOf, jsonIn } from './names.ts'
import type { CachedResult } from './result-cache.ts'

/**
 * What was invalidated, and when: one name in the store for each (`invalidations/<tenant>/<stamp>-<id>`), so that nodes that
 * invalidate at the same time do not overwrite each other. A result carries the newest stamp that its node knew when the
 * execution began (`seen`); it is alive as long as no invalidation that holds for it has a newer one. So nothing depends on
 * the clocks of two nodes being equal: a stamp is the time of its node, and always later than all that node has seen.
 */
export const invalidationSchema = z.strictObject({
  version: z.literal(1),
  tenant: z.string().max(256),
  id: z.string().regex(/^[0-9a-f]{16}$/),
  stamp: z.number().int().min(1).max(1e15),
  key: z.string().max(64).optional(),
  images: z.array(z.string().max(512)).max(2).optional(),
  label: z.string().max(1024).optional(),
})
export type Invalidation = z.infer<typeof invalidationSchema>

type Subject = Pick<CachedResult, 'image' | 'imageDigest' | 'labels'> & { readonly inputHash: string }

/** All of its conditions hold. */
export const holdsFor = ({ key, images, label }: Invalidation, subject: Subject): boolean => {
  if (key !== undefined && key !== subject.inputHash) return false
  if (images && !images.includes(subject.image) && !images.includes(subject.imageDigest)) return false
  if (label === undefined) return true
  const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(label) ?? []
  return Object.hasOwn(subject.labels, name) && (value === undefined || subject.labels[name] === value)
}

export interface Invalidations {
  /** The newest stamp that this node knows of the tenant. */
  seen(tenant: string): number
  isAlive(tenant: string, subject: Subject, seen: number): boolean
  /** Makes one that holds from now on, here; `publish` tells the others. */
  add(tenant: string, what: Pick<Invalidation, 'key' | 'images' | 'label'>): Invalidation
  /** Another node's. False: it was known. */
  learn(one: Invalidation): boolean
  publish(one: Invalidation): Promise<void>
  /** Learns what the store has, where the last look is older than `refreshMs`. Resolves with what is new. */
  refresh(tenant: string, options?: { signal?: AbortSignal | undefined; force?: boolean }): Promise<Invalidation[]>
  /** Removes names that are older than any result can be, and holds their number down. */
  sweep(tenant: string): Promise<void>
}

export interface InvalidationsDeps {
  readonly store: BlobStore
  readonly clock: Clock
  readonly log: Log
  readonly refreshMs: number
  /** No result is older. */
  readonly keptMs: number
}

/** Of one tenant; past it the older ones become one that forgets everything before them. */
const MAX_INVALIDATIONS = 256
/** Tenants known at once. The least recently used one is read anew when it is needed. */
const MAX_TENANTS = 10_000

interface Known {
  /** By id. */
  readonly all: Map<string, Invalidation>
  /** Everything that is not newer is gone: where there were too many to hold. */
  floor: number
  newest: number
  loadedAtMs: number
  loading: Promise<Invalidation[]> | undefined
}

const STAMP_DIGITS = 16
const NAME = /(\d{16})-([0-9a-f]{16})$/
const stampOf = (name: string): number => Number(NAME.exec(name)?.[1] ?? 0)
const nameOf = ({ tenant, stamp, id }: Invalidation): string =>
  `${invalidationsOf(tenant)}${String(stamp).padStart(STAMP_DIGITS, '0')}-${id}`
const newInvalidationId = (): string => randomBytes(8).toString('hex')

export const openInvalidations = ({ store, clock, log, refreshMs, keptMs }: InvalidationsDeps): Invalidations => {
  const tenants = new Map<string, Known>()
  let last = 0

  const knownOf = (tenant: string): Known => {
    const old = tenants.get(tenant)
    if (old) return old
    const known = { all: new Map(), floor: 0, newest: 0, loadedAtMs: Number.NEGATIVE_INFINITY, loading: undefined }
    tenants.set(tenant, known)
    const [oldest] = tenants.keys()
    if (tenants.size > MAX_TENANTS && oldest !== undefined) tenants.delete(oldest)
    return known
  }

  const remember = (known: Known, one: Invalidation): void => {
    last = Math.max(last, one.stamp)
    known.newest = Math.max(known.newest, one.stamp)
    known.all.set(one.id, one)
    if (known.all.size <= MAX_INVALIDATIONS) return
    const byAge = [...known.all.values()].sort((left, right) => left.stamp - right.stamp)
    for (const { id, stamp } of byAge.slice(0, MAX_INVALIDATIONS / 2)) {
      known.all.delete(id)
      known.floor = Math.max(known.floor, stamp)
    }
  }

  const read = async (tenant: string, name: string, signal?: AbortSignal): Promise<Invalidation | undefined> => {
    const [, digits, id = ''] = NAME.exec(name) ?? []
    const value = await store.names.get(name, { signal })
    if (!value) return undefined
    const parsed = invalidationSchema.safeParse(jsonIn(value))
    if (parsed.success && parsed.data.tenant === tenant && parsed.data.id === id) return parsed.data
    // That something was invalidated is all that is left of it: what, nobody knows any more.
    log.warn({ name }, 'an invalidation in the store is damaged: all results before it are forgotten')
    return { version: 1, tenant, id, stamp: Number(digits) }
  }

  /** While the tier that nodes share does not answer, what this node has of it: others are not heard then. */
  const namesOf = async (tenant: string, signal?: AbortSignal): Promise<string[]> => {
    const prefix = invalidationsOf(tenant)
    try {
      return await Array.fromAsync(store.names.list(prefix, { signal }))
    } catch (error) {
      signal?.throwIfAborted()
      log.warn({ err: error }, 'invalidations of other nodes are not heard')
      return await Array.fromAsync(store.names.list(prefix, { signal, reach: 'local' }))
    }
  }

  const load = async (tenant: string, known: Known, signal?: AbortSignal): Promise<Invalidation[]> => {
    const beganMs = clock.monotonicMs()
    const fresh: Invalidation[] = []
    for (const name of await namesOf(tenant, signal)) {
      const [, digits, id] = NAME.exec(name) ?? []
      if (id === undefined || known.all.has(id) || Number(digits) <= known.floor) continue
      const one = await read(tenant, name, signal)
      if (!one) continue
      remember(known, one)
      fresh.push(one)
    }
    known.loadedAtMs = beganMs
    return fresh
  }

  return {
    seen: (tenant) => tenants.get(tenant)?.newest ?? 0,
    isAlive(tenant, subject, seen) {
      const known = tenants.get(tenant)
      if (!known || seen >= known.newest) return true
      if (seen < known.floor) return false
      for (const one of known.all.values()) if (one.stamp > seen && holdsFor(one, subject)) return false
      return true
    },
    add(tenant, what) {
      last = Math.max(last + 1, clock.now())
      const one: Invalidation = { version: 1, tenant, id: newInvalidationId(), stamp: last, ...what }
      remember(knownOf(tenant), one)
      return one
    },
    learn(one) {
      const known = knownOf(one.tenant)
      if (known.all.has(one.id)) return false
      remember(known, one)
      return true
    },
    publish: (one) => store.names.set(nameOf(one), Buffer.from(JSON.stringify(one))),
    async refresh(tenant, { signal, force = false } = {}) {
      const known = knownOf(tenant)
      if (!force && clock.monotonicMs() - known.loadedAtMs < refreshMs) return []
      known.loading ??= load(tenant, known, signal).finally(() => {
        known.loading = undefined
      })
      return await known.loading
    },
    async sweep(tenant) {
      const names: string[] = []
      for await (const name of store.names.list(invalidationsOf(tenant))) if (NAME.test(name)) names.push(name)
      const outdated = names.filter((name) => stampOf(name) < clock.now() - keptMs)
      const rest = names.slice(outdated.length)
      const tooMany = rest.slice(0, Math.max(0, rest.length - MAX_INVALIDATIONS))
      const newest = tooMany.at(-1)
      // One that forgets all before it takes their place, and comes first: a crash in between leaves too many, never too few.
      if (newest !== undefined) {
        const all: Invalidation = { version: 1, tenant, id: newInvalidationId(), stamp: stampOf(newest) }
        await store.names.set(nameOf(all), Buffer.from(JSON.stringify(all)))
      }
      for (const name of [...outdated, ...tooMany]) await store.names.remove(name)
    },
  }
}
