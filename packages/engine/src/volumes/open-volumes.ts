import { createHash, randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError, type CacheName, cacheNameSchema, LIMITS, type Volume } from '@bramble/protocol'
import type { VolumeKind, VolumeStore } from '@bramble/runtime'
import type { Kysely } from 'kysely'
import type { Log } from '../options.ts'
import type { CacheRow, VolumeRow, VolumeTables } from '../store/volume-tables.ts'
import { CACHE_RULES } from './cache-rules.ts'
import { assertMountable } from './mount-path.ts'
import { CACHE_BYTES_MAX, promoteFiles, SANDBOX_BYTES_MAX } from './promote.ts'
import type { Volumes } from './volumes.ts'

export interface VolumesDeps {
  readonly db: Kysely<VolumeTables>
  readonly store: VolumeStore
  readonly log: Log
  /** Whose uppers are still wanted: layers of instances. */
  readonly owners: ReadonlySet<string>
  /** Instances that have a volume of a tenant mounted, by their ids. */
  readonly usersOf: (tenant: string, volume: string) => string[]
  /** Resolves when the sandboxes of executions that ended are gone. */
  readonly settled: () => Promise<void>
}

/** Whose cache the seed is: no tenant has this name. */
const SEED = ''
const isConflict = (error: unknown): boolean => error instanceof BrambleError && error.code === 'conflict'
const keyOf = (...parts: string[]): string => createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32)
const newGeneration = (tenant: string, cache: CacheName): string =>
  `g_${keyOf(tenant, cache).slice(0, 24)}_${randomBytes(8).toString('hex')}`

/**
 * Opens the volumes of a node. What a crash left half made (volumes without a row, generations that are no cache's newest,
 * uppers of sandboxes that are gone) is removed first.
 */
export const openVolumes = async ({ db, store, log, owners, usersOf, settled }: VolumesDeps): Promise<Volumes> => {
  // One promotion of a cache at a time: each begins with what the one before made.
  const lines = new Map<string, Promise<unknown>>()
  const inLine = <T>(tenant: string, cache: CacheName, work: () => Promise<T>): Promise<T> => {
    const key = `${tenant}/${cache}`
    const done = (lines.get(key) ?? Promise.resolve()).then(work)
    const settled = done
      .catch(() => {})
      .then(() => {
        if (lines.get(key) === settled) lines.delete(key)
      })
    lines.set(key, settled)
    return done
  }

  const rowOf = (tenant: string, name: string): Promise<VolumeRow | undefined> =>
    db.selectFrom('volumes').selectAll().where('tenant', '=', tenant).where('name', '=', name).executeTakeFirst()
  const cacheOf = (tenant: string, cache: CacheName): Promise<CacheRow | undefined> =>
    db.selectFrom('caches').selectAll().where('tenant', '=', tenant).where('cache', '=', cache).executeTakeFirst()

  const existing = async (tenant: string, name: string): Promise<VolumeRow> => {
    const row = await rowOf(tenant, name)
    if (!row) throw new BrambleError('not_found', { detail: `there is no volume \`${name}\`` })
    return row
  }

  const assertRoom = async (tenant: string): Promise<void> => {
    const { count } = await db
      .selectFrom('volumes')
      .select((select) => select.fn.countAll().as('count'))
      .where('tenant', '=', tenant)
      .executeTakeFirstOrThrow()
    const { value } = LIMITS.maxTenantVolumes
    if (Number(count) >= value)
      throw new BrambleError('quota_exceeded', { detail: `a tenant has at most ${value} volumes` })
  }

  const view = async (row: VolumeRow): Promise<Volume> => ({
    name: row.name,
    kind: 'volume',
    sizeMb: row.size_mb,
    usedBytes: await store.usedBytes('volume', row.key),
    usedBy: usersOf(row.tenant, row.name),
    labels: JSON.parse(row.labels) as Volume['labels'],
    createdAt: row.created_at,
  })
  const cacheView = (row: CacheRow): Volume => ({
    name: row.cache,
    kind: 'cache',
    sizeMb: Math.floor(CACHE_BYTES_MAX / 1024 ** 2),
    usedBytes: row.bytes,
    usedBy: [],
    labels: {},
    createdAt: row.created_at,
  })

  /** What is still mounted goes when it is looked at the next time. */
  const removeUnused = async (kind: VolumeKind, name: string): Promise<void> => {
    await store.remove(kind, name).catch((error: unknown) => {
      if (!isConflict(error)) log.warn({ err: error, kind, name }, 'what no volume needs could not be removed')
    })
  }

  const setCache = async (row: Omit<CacheRow, 'created_at'>): Promise<void> => {
    const before = await cacheOf(row.tenant, row.cache)
    const { generation, bytes } = row
    const created_at = new Date().toISOString()
    await db
      .insertInto('caches')
      .values({ ...row, created_at })
      .onConflict((conflict) => conflict.columns(['tenant', 'cache']).doUpdateSet({ generation, bytes, created_at }))
      .execute()
    if (before) await removeUnused('generation', before.generation)
  }

  const promoteOne = async (tenant: string, cache: CacheName, from: string, settled = false): Promise<number> => {
    const before = await cacheOf(tenant, cache)
    const generation = newGeneration(tenant, cache)
    const base = before !== undefined && before.bytes <= CACHE_BYTES_MAX - SANDBOX_BYTES_MAX ? before : undefined
    await store.nextGeneration(generation, base?.generation)
    try {
      const to = await store.directory('generation', generation)
      const { files, bytes } = await promoteFiles({ from, to, rule: CACHE_RULES[cache], settled })
      if (files > 0) await setCache({ tenant, cache, generation, bytes: (base?.bytes ?? 0) + bytes })
      else await removeUnused('generation', generation)
      return files
    } catch (error) {
      await removeUnused('generation', generation)
      throw error
    }
  }

  const cleanUp = async (): Promise<void> => {
    const volumes = new Set((await db.selectFrom('volumes').select('key').execute()).map(({ key }) => key))
    const generations = new Set(
      (await db.selectFrom('caches').select('generation').execute()).map(({ generation }) => generation),
    )
    for (const name of await store.list('volume')) if (!volumes.has(name)) await removeUnused('volume', name)
    for (const name of await store.list('generation'))
      if (!generations.has(name)) await removeUnused('generation', name)
    for (const name of await store.list('upper')) if (!owners.has(name)) await removeUnused('upper', name)
  }
  await cleanUp()

  const close = async (): Promise<void> => {
    await Promise.all(lines.values())
    await db.destroy()
  }

  return {
    put: async (tenant, name, { sizeMb, labels }) => {
      const known = await rowOf(tenant, name)
      if (!known) await assertRoom(tenant)
      const key = known?.key ?? `v_${keyOf(tenant, name)}`
      const row = {
        tenant,
        name,
        key,
        size_mb: sizeMb,
        labels: JSON.stringify(labels),
        created_at: known?.created_at ?? new Date().toISOString(),
      }
      await store.create(key, sizeMb)
      await db
        .insertInto('volumes')
        .values(row)
        .onConflict((conflict) =>
          conflict.columns(['tenant', 'name']).doUpdateSet({ size_mb: row.size_mb, labels: row.labels }),
        )
        .execute()
      return await view(row)
    },
    get: async (tenant, name) => await view(await existing(tenant, name)),
    list: async (tenant) => {
      const rows = await db.selectFrom('volumes').selectAll().where('tenant', '=', tenant).orderBy('name').execute()
      const caches = await db.selectFrom('caches').selectAll().where('tenant', '=', tenant).orderBy('cache').execute()
      return [...(await Promise.all(rows.map(view))), ...caches.map(cacheView)]
    },
    remove: async (tenant, name) => {
      const { key } = await existing(tenant, name)
      const users = usersOf(tenant, name)
      if (users.length > 0) throw new BrambleError('conflict', { detail: `instances use it: ${users.join(', ')}` })
      try {
        await store.remove('volume', key)
      } catch (error) {
        if (!isConflict(error)) throw error
        await settled()
        await store.remove('volume', key)
      }
      await db.deleteFrom('volumes').where('tenant', '=', tenant).where('name', '=', name).execute()
    },
    clearCache: (tenant, cache) =>
      inLine(tenant, cache, async () => {
        const row = await cacheOf(tenant, cache)
        if (!row) throw new BrambleError('not_found', { detail: `the cache \`${cache}\` holds nothing` })
        await db.deleteFrom('caches').where('tenant', '=', tenant).where('cache', '=', cache).execute()
        await removeUnused('generation', row.generation)
      }),
    seed: (tenant, cache) =>
      inLine(SEED, cache, async () => {
        const row = await cacheOf(tenant, cache)
        if (!row) throw new BrambleError('not_found', { detail: `the cache \`${cache}\` holds nothing` })
        const generation = newGeneration(SEED, cache)
        await store.nextGeneration(generation, row.generation)
        await setCache({ tenant: SEED, cache, generation, bytes: row.bytes })
      }),
    volumeMount: async (tenant, name, path, readOnly) => {
      const { key } = await existing(tenant, name)
      return { kind: 'volume', volume: key, path: assertMountable(path), readOnly }
    },
    cacheMount: async (tenant, cache, place) => {
      const rows = [await cacheOf(tenant, cache), await cacheOf(SEED, cache)]
      const generations = rows.flatMap((row) => (row ? [row.generation] : []))
      return { kind: 'cache', name: cache, generations, path: assertMountable(CACHE_RULES[cache].place(place)) }
    },
    promote: async (tenant, owner, { keep = false } = {}) => {
      if (!(await store.list('upper')).includes(owner)) return 0
      const folder = await store.directory('upper', owner)
      let files = 0
      for (const name of await readdir(folder)) {
        const cache = cacheNameSchema.safeParse(name)
        if (cache.success)
          files += await inLine(tenant, cache.data, () => promoteOne(tenant, cache.data, join(folder, name, 'upper')))
      }
      if (!keep) await store.remove('upper', owner)
      return files
    },
    generations: async () => {
      const rows = await db.selectFrom('caches').selectAll().where('tenant', '!=', SEED).execute()
      return await Promise.all(
        rows.map(async ({ tenant, cache, generation: name, bytes }) => ({
          ...{ tenant, cache, name, bytes },
          directory: await store.directory('generation', name),
        })),
      )
    },
    adopt: (tenant, cache, from) => inLine(tenant, cache, () => promoteOne(tenant, cache, from, true)),
    discard: (owner) => store.remove('upper', owner),
    close,
    [Symbol.asyncDispose]: close,
  }
}
