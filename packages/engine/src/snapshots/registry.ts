import { BrambleError, type Snapshot, type SnapshotChange } from '@bramble/protocol'
import type { SnapshotRow } from '../store/snapshot-tables.ts'
import {
  changeSnapshot,
  deleteSnapshot,
  insertSnapshot,
  listSnapshots,
  parentsOf,
  snapshotByName,
  snapshotsByHash,
} from '../store/snapshots.ts'
import { type Context, timeText } from './context.ts'
import { parseRecord, pointerName, recordName, recordOf, rowOfRecord, snapshotOf } from './record.ts'
import type { SnapshotQuery } from './snapshots.ts'

const HASH = /^[0-9a-f]{8,64}$/
const HASH_CHARS = 64

export const noSnapshot = (ref: string): BrambleError =>
  new BrambleError('not_found', { detail: `there is no snapshot ${ref}` })

/** What an instance is paused in lasts as long as that. */
const isExpired = ({ clock, instances }: Context, { expires_at, tenant, hash }: SnapshotRow): boolean =>
  expires_at !== null && Date.parse(expires_at) <= clock.now() && !instances.isSavedIn(tenant, hash)

/** By its hash, the beginning of its hash or its name: of this node, or of another that shares the store. */
export const findSnapshot = async (context: Context, ref: string, tenant: string): Promise<SnapshotRow> => {
  const row = (await findLocal(context, ref, tenant)) ?? (await adopt(context, ref, tenant))
  if (!row || isExpired(context, row)) throw noSnapshot(ref)
  return row
}

/** What this node knows of itself. */
export const findLocal = async ({ db }: Context, ref: string, tenant: string): Promise<SnapshotRow | undefined> => {
  if (HASH.test(ref)) {
    const [row, another] = await snapshotsByHash(db, tenant, ref)
    if (another)
      throw new BrambleError('conflict', { detail: `several snapshots begin with ${ref}: give more of its hash` })
    if (row) return row
  }
  return await snapshotByName(db, tenant, ref)
}

/** What the names of the store tell of a snapshot that this node does not know. The record is trusted as the store is. */
const adopt = async (context: Context, ref: string, tenant: string): Promise<SnapshotRow | undefined> => {
  const { names } = context.blobs
  const hash = await sharedHash(context, ref, tenant)
  const bytes = hash === undefined ? undefined : await names.get(recordName(tenant, hash))
  if (hash === undefined || bytes === undefined) return undefined
  const record = parseRecord(bytes, tenant, hash)
  if (!record) {
    context.log.warn({ snapshot: hash }, 'what the store tells of a snapshot cannot be read')
    return undefined
  }
  const row = rowOfRecord(record)
  if (!isExpired(context, row)) await insertSnapshot(context.db, { row, parents: record.parents })
  return row
}

const sharedHash = async ({ blobs }: Context, ref: string, tenant: string): Promise<string | undefined> => {
  if (HASH.test(ref)) {
    if (ref.length === HASH_CHARS) return ref
    const found: string[] = []
    for await (const name of blobs.names.list(recordName(tenant, ref))) {
      found.push(name.slice(name.lastIndexOf('/') + 1))
      if (found.length > 1)
        throw new BrambleError('conflict', { detail: `several snapshots begin with ${ref}: give more of its hash` })
    }
    if (found[0] !== undefined) return found[0]
  }
  const pointer = await blobs.names.get(pointerName(tenant, ref))
  const hash = pointer && Buffer.from(pointer).toString('latin1')
  return hash?.length === HASH_CHARS && HASH.test(hash) ? hash : undefined
}

/** Tells other nodes of a snapshot. Where the store does not take it now, `mirrorAll` tries again. */
export const mirror = async (context: Context, row: SnapshotRow): Promise<void> => {
  const { blobs, db, log } = context
  context.needImage(row.image_digest)
  try {
    const parents = (await parentsOf(db, row.tenant, row.hash)).filter((state) => state.length === HASH_CHARS)
    await blobs.names.set(recordName(row.tenant, row.hash), recordOf(row, parents))
    if (row.name !== null) await pointTo(context, row.tenant, row.name)
    await changeSnapshot(db, row, { mirrored: 1 })
  } catch (error) {
    log.warn({ err: error, snapshot: row.hash }, 'other nodes cannot be told of a snapshot yet')
  }
  shareSoon(context)
}

const shareSoon = (context: Context): void => {
  const { blobs, closing } = context
  context.sharing ??= blobs
    .settled({ signal: closing.signal })
    .then(() => noteShared(context))
    // It is looked at again from time to time.
    .catch(() => {})
    .finally(() => {
      context.sharing = undefined
    })
}

/** Says of snapshots that they are in the lower tier too, once nothing waits to go there. */
export const noteShared = async ({ blobs, db, clock }: Context): Promise<void> => {
  const before = timeText(clock.now())
  const stats = await blobs.stats?.()
  if (!stats?.lowerTier?.available || stats.pendingUploads > 0) return
  await db
    .updateTable('snapshots')
    .set({ stored: 'shared' })
    .where('stored', '=', 'local')
    .where('mirrored', '=', 1)
    .where('created_at', '<', before)
    .execute()
}

export const mirrorAll = async (context: Context): Promise<void> => {
  const rows = await context.db.selectFrom('snapshots').selectAll().where('mirrored', '=', 0).execute()
  for (const row of rows) await mirror(context, row)
}

/** A name leads to the newest snapshot that has it. */
const pointTo = async ({ blobs, db }: Context, tenant: string, name: string): Promise<void> => {
  const newest = await snapshotByName(db, tenant, name)
  if (newest) await blobs.names.set(pointerName(tenant, name), Buffer.from(newest.hash))
  else await blobs.names.remove(pointerName(tenant, name))
}

export const listOf = async (
  context: Context,
  query: SnapshotQuery,
): Promise<{ items: Snapshot[]; nextCursor: string | null }> => {
  const now = timeText(context.clock.now())
  const rows = await listSnapshots(context.db, { ...query, limit: query.limit + 1 }, cursorOf(query.cursor), now)
  const items = rows.slice(0, query.limit)
  const last = items.at(-1)
  const nextCursor = rows.length > query.limit && last ? `${last.created_at}_${last.hash}` : null
  return { items: items.map(snapshotOf), nextCursor }
}

const cursorOf = (cursor: string | undefined): { created_at: string; hash: string } | undefined => {
  if (cursor === undefined) return undefined
  const [, created_at, hash] = /^([0-9TZ:.-]{20,30})_([0-9a-f]{64})$/.exec(cursor) ?? []
  if (created_at === undefined || hash === undefined)
    throw new BrambleError('invalid_request', { detail: '`cursor` is not one of this list' })
  return { created_at, hash }
}

export const changeOf = async (
  context: Context,
  ref: string,
  tenant: string,
  { name, labels, ttlMs }: SnapshotChange,
): Promise<Snapshot> => {
  const row = await findSnapshot(context, ref, tenant)
  // What a fork left goes after a day, unless somebody gives it a name.
  const isKept = typeof name === 'string' && ttlMs === undefined && row.origin === 'execution'
  const change: Partial<SnapshotRow> = {
    ...(name !== undefined && { name }),
    ...(labels !== undefined && { labels: JSON.stringify(labels) }),
    ...(isKept && { expires_at: null }),
    ...(ttlMs !== undefined && { expires_at: ttlMs === null ? null : timeText(context.clock.now() + ttlMs) }),
    mirrored: 0,
  }
  await changeSnapshot(context.db, row, change)
  const changed = { ...row, ...change }
  await mirror(context, changed)
  if (row.name !== null && row.name !== changed.name)
    await pointTo(context, tenant, row.name).catch((error: unknown) => {
      context.log.warn({ err: error, name: row.name }, 'the name of a snapshot leads to what had it before')
    })
  return snapshotOf(changed)
}

/** Its blobs and its seal go with the next collection. The record first: whoever finds it finds all of it. */
export const removeSnapshot = async (context: Context, row: SnapshotRow): Promise<void> => {
  const { tenant, hash, name } = row
  await context.blobs.names.remove(recordName(tenant, hash))
  await deleteSnapshot(context.db, tenant, hash)
  if (name !== null) await pointTo(context, tenant, name)
}
