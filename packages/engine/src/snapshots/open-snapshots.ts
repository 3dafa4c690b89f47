import { join } from 'node:path'
import { BrambleError, type InstanceId } from '@bramble/protocol'
import type { Origin, States } from '../instances/states.ts'
import { openDatabase } from '../store/open-database.ts'
import { SNAPSHOT_MIGRATIONS, type SnapshotTables } from '../store/snapshot-tables.ts'
import { deleteBranches, insertBranches, type StoredByKey, storedByKey } from '../store/snapshots.ts'
import { clearImports } from './archive/import-snapshot.ts'
import { makeBranches, restoreSnapshot } from './branch.ts'
import { exportOf, importOf } from './carry.ts'
import { collectAll, collectSeals, removeExpired } from './collect.ts'
import { type Context, type SnapshotsDeps, timeText } from './context.ts'
import { diffSnapshots } from './diff.ts'
import { type ExecutionStates, executionStatesOf } from './execution-states.ts'
import { foldBranches } from './fold.ts'
import { listBranches } from './list-branches.ts'
import { snapshotOf } from './record.ts'
import { changeOf, findSnapshot, listOf, mirrorAll, noteShared, removeSnapshot } from './registry.ts'
import { reconcileSeals, sealOfSnapshot, wantsMemory } from './seals.ts'
import type { Snapshots } from './snapshots.ts'
import { pauseInto, takeSnapshot } from './take.ts'

export interface OpenSnapshots extends Snapshots {
  readonly states: States
  readonly ofExecutions: ExecutionStates
  /** What the snapshots of each key take. */
  storedByKey(tenant: string | undefined): Promise<StoredByKey[]>
  close(): Promise<void>
}

const TIDY_EVERY_MS = 60_000
const COLLECT_EVERY_MS = 3_600_000
/** A node that never rests is tidied, too. */
const COLLECT_AT_LEAST_MS = 6 * COLLECT_EVERY_MS

/**
 * The snapshots of a node. What an earlier one left half made is removed: seals that nobody was told of. Its blobs go with
 * a collection when their leases are over.
 */
export const openSnapshots = async (
  deps: Omit<SnapshotsDeps, 'db' | 'stagingDirectory'> & { readonly dataDirectory: string },
): Promise<OpenSnapshots> => {
  const db = await openDatabase<SnapshotTables>({
    path: join(deps.dataDirectory, 'snapshots.db'),
    owner: 'snapshots',
    migrations: SNAPSHOT_MIGRATIONS,
  })
  const stagingDirectory = join(deps.dataDirectory, 'imports')
  const context: Context = {
    ...deps,
    db,
    stagingDirectory,
    closing: new AbortController(),
    held: new Map(),
    writing: new Map(),
    sharing: undefined,
  }
  await clearImports(stagingDirectory)
  const working = new Set<Promise<unknown>>()
  /** What is under way when the node closes is waited for. */
  const during = <T>(work: () => Promise<T>): Promise<T> => {
    if (context.closing.signal.aborted)
      return Promise.reject(new BrambleError('shutting_down', { detail: 'the engine is closing' }))
    const done = work()
    working.add(done)
    return done.finally(() => working.delete(done))
  }
  await reconcileSeals(context)
  const ofExecutions = executionStatesOf(context)
  const stopTidying = startTidying(context, during)

  return {
    take: (ref, request, owner) => during(() => takeSnapshot(context, ref, request, owner)),
    get: (ref, tenant) => during(async () => snapshotOf(await findSnapshot(context, ref, tenant))),
    list: (query) => during(() => listOf(context, query)),
    change: (ref, tenant, change) => during(() => changeOf(context, ref, tenant, change)),
    remove: (ref, tenant) =>
      during(async () => {
        const row = await findSnapshot(context, ref, tenant)
        if (context.instances.isSavedIn(tenant, row.hash))
          throw new BrambleError('conflict', {
            detail: `an instance is paused in the snapshot ${row.hash}: resume or delete it first`,
          })
        await removeSnapshot(context, row)
      }),
    merge: (request, owner) => during(() => foldBranches(context, request, owner)),
    diff: (from, to, tenant, { signal } = {}) => during(() => diffSnapshots(context, from, to, tenant, signal)),
    export: (ref, tenant, options = {}) => during(() => exportOf(context, ref, tenant, options)),
    import: (source, request, owner) => during(() => importOf(context, source, request, owner)),
    restore: (ref, request, owner) => during(() => restoreSnapshot(context, ref, request, owner)),
    branch: (request, owner) => during(() => makeBranches(context, request, owner)),
    branches: (query) => during(() => listBranches(context, query)),
    collect: (options = {}) => during(() => collectAll(context, options)),
    pause: (ref, owner) => during(() => pauseInto(context, ref, owner)),
    storedByKey: (tenant) => storedByKey(db, tenant),
    states: statesOf(context),
    ofExecutions: {
      begin: (...args) => during(() => ofExecutions.begin(...args)),
      keep: (ended) => during(() => ofExecutions.keep(ended)),
    },
    async close() {
      if (context.closing.signal.aborted) return
      context.closing.abort(new BrambleError('shutting_down', { detail: 'the engine is closing' }))
      stopTidying()
      await Promise.allSettled([...working, ...context.writing.values(), context.sharing])
      await db.destroy()
    },
  }
}

const statesOf = (context: Context): States => ({
  async open(ref, tenant, { memory, signal }) {
    const row = await findSnapshot(context, ref, tenant)
    const { seal, ...held } = await sealOfSnapshot(context, row, wantsMemory(context, row, memory), signal)
    return {
      id: row.hash,
      runtime: seal.runtime,
      imageDigest: seal.image_digest,
      seal: seal.name,
      memory: wantsMemory(context, row, memory),
      [Symbol.dispose]: () => held[Symbol.dispose](),
    }
  },
  began: (ids, origin) => insertBranches(context.db, rowsOf(context, ids, origin)),
  forget: (ids) => deleteBranches(context.db, ids),
})

const rowsOf = ({ clock }: Context, ids: readonly InstanceId[], origin: Origin) => {
  const created_at = timeText(clock.now())
  const { tenant, parent, parentKind, state, memory } = origin
  return ids.map((instance_id) => ({
    instance_id,
    tenant,
    parent,
    parent_kind: parentKind,
    state,
    memory: Number(memory),
    created_at,
  }))
}

/** Snapshots whose time is over go soon; what they leave goes when the node rests. */
const startTidying = (context: Context, during: <T>(work: () => Promise<T>) => Promise<T>): (() => void) => {
  const { clock, log } = context
  let collectedMs = clock.monotonicMs()
  let running = false
  const tidy = async (): Promise<void> => {
    await mirrorAll(context)
    await noteShared(context)
    await removeExpired(context)
    await collectSeals(context, context.closing.signal)
    const sinceMs = clock.monotonicMs() - collectedMs
    if (sinceMs < (context.isIdle() ? COLLECT_EVERY_MS : COLLECT_AT_LEAST_MS)) return
    collectedMs = clock.monotonicMs()
    const { blobs, storedBytes, seals } = await collectAll(context, {})
    log.info({ blobs, storedBytes, seals }, 'what nothing needed any more was removed')
  }
  const timer = setInterval(() => {
    if (running) return
    running = true
    void during(tidy)
      .catch((error: unknown) => {
        if (!context.closing.signal.aborted) log.error({ err: error }, 'the store of snapshots could not be tidied')
      })
      .finally(() => {
        running = false
      })
  }, TIDY_EVERY_MS).unref()
  return () => clearInterval(timer)
}
