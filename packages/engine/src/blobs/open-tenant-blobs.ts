import type { BlobSource, BlobStore } from '@bramble/blobs'
import { type BlobHash, BrambleError, LIMITS, type TenantBlob } from '@bramble/protocol'
import type { Kysely } from 'kysely'
import type { Clock, Log } from '../options.ts'
import type { BlobGrantRow, BlobTables } from '../store/blob-tables.ts'
import type { PutTenantBlob, TenantBlobs } from './tenant-blobs.ts'

export interface TenantBlobsDeps {
  readonly db: Kysely<BlobTables>
  readonly store: BlobStore
  readonly clock: Clock
  readonly log: Log
}

const MIB = 1024 * 1024
const SWEEP_EVERY_MS = 60_000
const ROWS_A_QUERY = 500

const view = (row: BlobGrantRow): TenantBlob => ({
  hash: row.hash as BlobHash,
  sizeBytes: row.size_bytes,
  origin: row.origin,
  createdAt: new Date(row.created_ms).toISOString(),
  expiresAt: new Date(row.expires_ms).toISOString(),
})

const notFound = (hash: string): BrambleError =>
  new BrambleError('blob_not_found', { detail: `there is no blob ${hash}` })

/** What a tenant stores at this moment, of which nothing is written yet. */
interface Coming {
  count: number
  sizeBytes: number
}

export const openTenantBlobs = async ({ db, store, clock, log }: TenantBlobsDeps): Promise<TenantBlobs> => {
  const coming = new Map<string, Coming>()

  const sweep = async (): Promise<void> => {
    await db.deleteFrom('blob_grants').where('expires_ms', '<=', clock.now()).execute()
  }
  await sweep()
  const sweeping = setInterval(() => {
    void sweep().catch((error: unknown) => log.warn({ err: error }, 'expired blobs could not be given up'))
  }, SWEEP_EVERY_MS).unref()

  const rowOf = async (tenant: string, hash: string): Promise<BlobGrantRow> => {
    const row = await db
      .selectFrom('blob_grants')
      .selectAll()
      .where('tenant', '=', tenant)
      .where('hash', '=', hash)
      .where('expires_ms', '>', clock.now())
      .executeTakeFirst()
    if (!row) throw notFound(hash)
    return row
  }

  const stored = async (tenant: string): Promise<Coming> => {
    const row = await db
      .selectFrom('blob_grants')
      .select((select) => [select.fn.countAll().as('count'), select.fn.sum('size_bytes').as('size_bytes')])
      .where('tenant', '=', tenant)
      .executeTakeFirstOrThrow()
    return { count: Number(row.count), sizeBytes: Number(row.size_bytes ?? 0) }
  }

  const write = async (rows: readonly BlobGrantRow[]): Promise<void> => {
    await db.transaction().execute(async (transaction) => {
      for (const row of rows)
        await transaction
          .insertInto('blob_grants')
          .values(row)
          .onConflict((conflict) =>
            conflict.columns(['tenant', 'hash']).doUpdateSet((old) => ({
              // What was put stays so when a result names it too, and is had for as long as any of both says.
              origin: row.origin === 'put' ? 'put' : old.ref('blob_grants.origin'),
              expires_ms:
                row.origin === 'put'
                  ? row.expires_ms
                  : old
                      .case()
                      .when('blob_grants.expires_ms', '>', row.expires_ms)
                      .then(old.ref('blob_grants.expires_ms'))
                      .else(row.expires_ms)
                      .end(),
            })),
          )
          .execute()
    })
  }

  /** The bytes as they come, for as long as they fit. They count from the moment they are read, until `settle`. */
  const counted = async (tenant: string, source: BlobSource, { quota, sizeBytes }: PutTenantBlob) => {
    const mine = coming.get(tenant) ?? { count: 0, sizeBytes: 0 }
    coming.set(tenant, mine)
    let before = await stored(tenant)
    const maxBytes = quota?.storageMb === undefined ? LIMITS.maxTenantBlobBytes.value : quota.storageMb * MIB
    const check = (more: number): void => {
      if (before.count + mine.count > LIMITS.maxTenantBlobs.value)
        throw new BrambleError('quota_exceeded', {
          detail: `a tenant has at most ${LIMITS.maxTenantBlobs.value} blobs`,
        })
      if (before.sizeBytes + mine.sizeBytes + more > maxBytes)
        throw new BrambleError('quota_exceeded', { detail: `the tenant's blobs have at most ${maxBytes} bytes` })
    }
    let own = 0
    mine.count++
    const settle = (): void => {
      mine.count--
      mine.sizeBytes -= own
      if (mine.count === 0) coming.delete(tenant)
    }
    const pieces = async function* (): AsyncGenerator<Uint8Array> {
      for await (const piece of source instanceof Uint8Array ? [source] : source) {
        own += piece.length
        mine.sizeBytes += piece.length
        check(0)
        yield piece
      }
    }
    try {
      check(sizeBytes ?? 0)
    } catch (error) {
      settle()
      throw error
    }
    // Others may have been written while this one came.
    const checkAgain = async (): Promise<void> => {
      before = await stored(tenant)
      check(0)
    }
    return { pieces: pieces(), checkAgain, settle }
  }

  const put: TenantBlobs['put'] = async (tenant, source, options) => {
    const { ttlMs, origin = 'put', sizeBytes, expect, signal } = options
    const { pieces, checkAgain, settle } = await counted(tenant, source, options)
    try {
      await using lease = await store.leases.acquire()
      const info = await store.put(pieces, { sizeBytes, expect, lease, signal })
      await checkAgain()
      const now = clock.now()
      const row = { tenant, hash: info.hash, size_bytes: info.sizeBytes, origin, created_ms: now }
      await write([{ ...row, expires_ms: now + ttlMs }])
      return view(await rowOf(tenant, info.hash))
    } finally {
      settle()
    }
  }

  const assertHas = async (tenant: string, hashes: readonly BlobHash[]): Promise<void> => {
    const rows = await db
      .selectFrom('blob_grants')
      .select('hash')
      .where('tenant', '=', tenant)
      .where('hash', 'in', hashes)
      .where('expires_ms', '>', clock.now())
      .execute()
    const has = new Set(rows.map(({ hash }) => hash))
    for (const hash of hashes) if (!has.has(hash)) throw notFound(hash)
  }

  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    clearInterval(sweeping)
    await db.destroy()
  }

  return {
    put,
    async get(tenant, hash, options) {
      await rowOf(tenant, hash)
      return await store.get(hash, options)
    },
    stat: async (tenant, hash) => view(await rowOf(tenant, hash)),
    async list({ tenant, limit, cursor = '' }) {
      const rows = await db
        .selectFrom('blob_grants')
        .selectAll()
        .where('tenant', '=', tenant)
        .where('hash', '>', cursor)
        .where('expires_ms', '>', clock.now())
        .orderBy('hash')
        .limit(limit + 1)
        .execute()
      const items = rows.slice(0, limit).map(view)
      return { items, nextCursor: rows.length > limit ? (items.at(-1)?.hash ?? null) : null }
    },
    async remove(tenant, hash) {
      const { numDeletedRows } = await db
        .deleteFrom('blob_grants')
        .where('tenant', '=', tenant)
        .where('hash', '=', hash)
        .where('expires_ms', '>', clock.now())
        .executeTakeFirst()
      if (numDeletedRows === 0n) throw notFound(hash)
    },
    async grant(tenant, blobs, expiresAtMs) {
      const now = clock.now()
      const rows = blobs.map(({ hash, sizeBytes }) => ({ tenant, hash, size_bytes: sizeBytes, created_ms: now }))
      await write(rows.map((row) => ({ ...row, origin: 'result', expires_ms: expiresAtMs })))
    },
    async hold(tenant, hashes) {
      await assertHas(tenant, hashes)
      const lease = await store.leases.acquire()
      try {
        await lease.hold(hashes)
        return lease
      } catch (error) {
        await lease.release()
        throw error
      }
    },
    async *roots() {
      let after = { tenant: '', hash: '' }
      for (;;) {
        const { tenant, hash } = after
        const rows = await db
          .selectFrom('blob_grants')
          .select(['tenant', 'hash'])
          .where('expires_ms', '>', clock.now())
          .where((where) =>
            where.or([
              where('tenant', '>', tenant),
              where.and([where('tenant', '=', tenant), where('hash', '>', hash)]),
            ]),
          )
          .orderBy('tenant')
          .orderBy('hash')
          .limit(ROWS_A_QUERY)
          .execute()
        for (const row of rows) yield row.hash as BlobHash
        const last = rows.at(-1)
        if (!last || rows.length < ROWS_A_QUERY) return
        after = last
      }
    },
    close() {
      closed ??= closeOnce()
      return closed
    },
  }
}
