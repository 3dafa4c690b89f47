import { type Collection, collect } from '@bramble/blobs'
import { type BlobHash, blobHashSchema, toBrambleError } from '@bramble/protocol'
import type { SealRow } from '../store/snapshot-tables.ts'
import { deleteBranches, deleteHeads } from '../store/snapshots.ts'
import { references } from './content/references.ts'
import { type Context, timeText } from './context.ts'
import { isSnapshot } from './lineage.ts'
import { removeSnapshot } from './registry.ts'
import { evictSeal, sealingOf } from './seals.ts'

/** What branches have in common is kept so long after they were made, and then as long as one of them is there. */
const BASE_KEPT_MS = 24 * 3_600_000
/** Branches that are gone are listed so long, and then as long as something descends from them. */
const GONE_KEPT_MS = 24 * 3_600_000

interface CollectOptions {
  readonly signal?: AbortSignal
  readonly graceMs?: number
}

/** Removes what nothing needs any more: snapshots past their time, seals, blobs. */
export const collectAll = async (
  context: Context,
  { signal = context.closing.signal, graceMs }: CollectOptions,
): Promise<{ blobs: number; storedBytes: number; seals: number }> => {
  await removeExpired(context)
  await forgetGone(context)
  const seals = await collectSeals(context, signal)
  const collection = await collectBlobs(context, signal, graceMs)
  return { blobs: collection.removedBlobs, storedBytes: collection.removedStoredBytes, seals }
}

export const removeExpired = async (context: Context): Promise<void> => {
  const now = timeText(context.clock.now())
  const rows = await context.db.selectFrom('snapshots').selectAll().where('expires_at', '<=', now).execute()
  for (const row of rows)
    if (!context.instances.isSavedIn(row.tenant, row.hash))
      await removeSnapshot(context, row).catch((error: unknown) => {
        context.log.warn({ err: error, snapshot: row.hash }, 'a snapshot whose time is over could not be removed yet')
      })
}

/** Forgets branches that are gone and left nothing, and what nobody descends from any more. */
const forgetGone = async (context: Context): Promise<void> => {
  const { db, instances, clock } = context
  const old = timeText(clock.now() - GONE_KEPT_MS)
  const branches = await db.selectFrom('branches').select(['instance_id', 'parent', 'created_at']).execute()
  const heads = await db.selectFrom('heads').select(['instance_id', 'state']).execute()
  const snapshots = await db.selectFrom('snapshots').select(['hash', 'source']).execute()
  const parents = new Set<string>(branches.map(({ parent }) => parent))
  for (const { source } of snapshots) if (source !== null) parents.add(source)
  const isGone = ({ instance_id }: { instance_id: string }): boolean => !instances.has(instance_id)
  const idOf = ({ instance_id }: { instance_id: string }): string => instance_id
  const over = branches.filter((row) => isGone(row) && !parents.has(row.instance_id) && row.created_at < old)
  await deleteBranches(db, over.map(idOf))
  await deleteHeads(db, heads.filter(isGone).map(idOf))
  await forgetStates(context)
}

const forgetStates = async ({ db }: Context): Promise<void> => {
  const states = await db.selectFrom('states').select(['tenant', 'state', 'parents']).execute()
  const parentsOf = new Map(states.map(({ tenant, state, parents }) => [`${tenant} ${state}`, parents]))
  const needed = new Set<string>()
  const roots = [
    ...(await db.selectFrom('snapshots').select(['tenant', 'hash as state']).execute()),
    ...(await db.selectFrom('seals').select(['tenant', 'state']).execute()),
    ...(await db.selectFrom('heads').select(['tenant', 'state']).execute()),
    ...(await db.selectFrom('branches').select(['tenant', 'state']).execute()),
  ]
  const next = roots.map(({ tenant, state }) => ({ tenant, state }))
  for (let one = next.pop(); one; one = next.pop()) {
    const { tenant, state } = one
    const key = `${tenant} ${state}`
    if (needed.has(key)) continue
    needed.add(key)
    const parents = JSON.parse(parentsOf.get(key) ?? '[]') as string[]
    for (const parent of parents) next.push({ tenant, state: parent })
  }
  for (const { tenant, state } of states)
    if (!needed.has(`${tenant} ${state}`))
      await db.deleteFrom('states').where('tenant', '=', tenant).where('state', '=', state).execute()
}

/**
 * Removes seals: the least recently used, where all take more than `maxSealBytes`. Those of snapshots are copies of what blobs
 * have, and go with them. Those that branches have in common are the only ones of their states: they stay while a branch does,
 * and otherwise no longer than a day.
 */
export const collectSeals = async (context: Context, signal: AbortSignal): Promise<number> => {
  const { db, clock, limits } = context
  const rows = await db.selectFrom('seals').selectAll().orderBy('used_at', 'desc').execute()
  const snapshots = await db.selectFrom('snapshots').select(['tenant', 'hash']).execute()
  const stored = new Set(snapshots.map(({ tenant, hash }) => `${tenant} ${hash}`))
  const bases = await livingBases(context)
  const young = timeText(clock.now() - BASE_KEPT_MS)
  let removed = 0
  let totalBytes = 0
  for (const row of rows) {
    signal.throwIfAborted()
    const key = `${row.tenant} ${row.state}`
    const bytes = await bytesOf(context, row)
    const isTooMuch = totalBytes + bytes > limits.maxSealBytes
    const isOld = isSnapshot(row.state) || row.created_at < young
    const isOver = stored.has(key) ? isTooMuch : !bases.has(key) && (isTooMuch || isOld)
    if (isOver && (await evictSeal(context, row))) removed++
    else totalBytes += bytes
  }
  return removed
}

/** States that branches which are there began as. */
const livingBases = async ({ db, instances }: Context): Promise<Set<string>> => {
  const branches = await db.selectFrom('branches').select(['tenant', 'state', 'instance_id']).execute()
  return new Set(
    branches.filter(({ instance_id }) => instances.has(instance_id)).map(({ tenant, state }) => `${tenant} ${state}`),
  )
}

const bytesOf = async (context: Context, row: SealRow): Promise<number> => {
  if (row.used_bytes > 0) return row.used_bytes
  try {
    const used_bytes = await sealingOf(context, row.runtime).seals.usedBytes(row.name)
    await context.db.updateTable('seals').set({ used_bytes }).where('name', '=', row.name).execute()
    return used_bytes
  } catch (error) {
    context.log.warn({ err: error, seal: row.name }, 'nobody knows what a seal takes')
    return 0
  }
}

const collectBlobs = (context: Context, signal: AbortSignal, graceMs: number | undefined): Promise<Collection> =>
  collect(context.blobs, roots(context, signal), { signal, graceMs, now: () => context.clock.now() })

/** Every blob that a snapshot of this node, or one that the store's names lead to, needs; and what others need. */
async function* roots(context: Context, signal: AbortSignal): AsyncGenerator<BlobHash, void, undefined> {
  const { blobs, db } = context
  const own = await db.selectFrom('snapshots').select('hash').distinct().execute()
  const seen = new Set<string>()
  for (const { hash } of own) {
    seen.add(hash)
    // Where one cannot be read, nobody knows what it needs: nothing is removed then.
    yield* references(blobs, hash as BlobHash, { signal })
  }
  // What only other nodes need, lies in the shared tier, which they all have; here it makes room.
  const others = blobs.lower ? [] : blobs.names.list('snapshots/', { signal })
  for await (const name of others) {
    const { success, data: hash } = blobHashSchema.safeParse(name.slice(name.lastIndexOf('/') + 1))
    if (!success || seen.has(hash)) continue
    seen.add(hash)
    try {
      yield* references(blobs, hash, { signal })
    } catch (error) {
      // What another node has not brought to the store yet is young there, or not there at all.
      if (toBrambleError(error).code !== 'blob_not_found') throw error
    }
  }
  for (const more of context.extraRoots) yield* more()
}
