import { randomBytes } from 'node:crypto'
import { until } from '@bramble/blobs'
import { type BlobHash, BrambleError, toBrambleError } from '@bramble/protocol'
import type { Runtime, SealStore } from '@bramble/runtime'
import type { SealRow, SnapshotRow } from '../store/snapshot-tables.ts'
import { readManifest } from './content/manifest.ts'
import { materialize } from './content/materialize.ts'
import { type Context, timeText } from './context.ts'
import { memoryOf } from './record.ts'
import { whyIncompatible } from './requirements.ts'

const MIB = 1024 * 1024

/** A runtime that keeps seals. */
export interface Sealing {
  readonly runtime: Runtime
  readonly seals: SealStore
}

export const newSealName = (): string => `s_${randomBytes(12).toString('hex')}`

export const sealingOf = (context: Context, name: string): Sealing => {
  const runtime = context.runtimes.find((one) => one.name === name)
  if (runtime?.seals) return { runtime, seals: runtime.seals }
  throw new BrambleError('unsupported', { detail: `the runtime \`${name}\` of this node keeps no states of sandboxes` })
}

/** Keeps a seal from being removed until it is given back. */
export const holdSeal = ({ held }: Context, name: string): Disposable => {
  held.set(name, (held.get(name) ?? 0) + 1)
  let isHeld = true
  return {
    [Symbol.dispose]() {
      if (!isHeld) return
      isHeld = false
      const count = (held.get(name) ?? 1) - 1
      if (count === 0) held.delete(name)
      else held.set(name, count)
    },
  }
}

/** Whether a snapshot is continued with its processes: as asked for, or where that works. Throws where it cannot be as asked. */
export const wantsMemory = (context: Context, row: SnapshotRow, asked: boolean | undefined): boolean => {
  if (asked === false) return false
  const why = whyWithoutMemory(context, row)
  if (why === undefined) return true
  if (asked === true) throw new BrambleError('snapshot_incompatible', { detail: why })
  return false
}

const whyWithoutMemory = (context: Context, row: SnapshotRow): string | undefined => {
  const memory = memoryOf(row)
  if (!memory) return 'it has files alone, and no memory'
  if (row.trusted === 0)
    return 'its memory came from outside, and nobody with the right to has said that it may run here'
  const runtime = context.runtimes.find(({ name }) => name === memory.requires.runtime)
  return whyIncompatible(memory.requires, runtime?.capabilities.checkpoint ? runtime.seals?.offers : undefined)
}

/** The seal of a snapshot, held: the one that is there, or one that is written from its blobs. */
export const sealOfSnapshot = async (
  context: Context,
  row: SnapshotRow,
  memory: boolean,
  signal: AbortSignal,
): Promise<{ seal: SealRow } & Disposable> => {
  for (;;) {
    signal.throwIfAborted()
    const known = await findSeal(context, row.tenant, row.hash, memory)
    if (known) {
      const hold = holdSeal(context, known.name)
      const used_at = timeText(context.clock.now())
      // It may have been removed before it was held.
      const { numUpdatedRows } = await context.db
        .updateTable('seals')
        .set({ used_at })
        .where('name', '=', known.name)
        .executeTakeFirst()
      if (numUpdatedRows > 0n) return { seal: known, [Symbol.dispose]: () => hold[Symbol.dispose]() }
      hold[Symbol.dispose]()
      continue
    }
    const key = `${row.tenant} ${row.hash} ${memory}`
    const writing =
      context.writing.get(key) ?? writeSeal(context, row, memory).finally(() => context.writing.delete(key))
    context.writing.set(key, writing)
    await until(writing, signal)
  }
}

/** Prefers one without memory where that is enough. */
export const findSeal = async (
  { db, runtimes }: Context,
  tenant: string,
  state: string,
  memory: boolean,
): Promise<SealRow | undefined> => {
  const rows = await db
    .selectFrom('seals')
    .selectAll()
    .where('state', '=', state)
    .where('tenant', '=', tenant)
    .orderBy('memory')
    .execute()
  return rows.find((row) => (!memory || row.memory === 1) && runtimes.some(({ name }) => name === row.runtime))
}

/** Many may wait for it: it goes on whoever leaves. */
const writeSeal = async (context: Context, row: SnapshotRow, memory: boolean): Promise<string> => {
  const { blobs, clock, closing } = context
  const image = await context.obtainImage(row.image_digest, { signal: closing.signal })
  const requires = memoryOf(row)?.requires
  const runtime = memory
    ? context.runtimes.find(({ name }) => name === requires?.runtime)
    : context.runtimes.find(({ seals }) => seals !== undefined)
  if (!runtime?.seals) throw new BrambleError('unsupported', { detail: 'this node keeps no states of sandboxes' })
  const name = newSealName()
  const { seals } = runtime
  await runtime.prepare(image, { signal: closing.signal })
  try {
    const { signal } = closing
    const manifest = await readManifest(blobs, row.hash as BlobHash, { signal })
    const diskBytes = manifest.config.diskMb * MIB
    await materialize({ store: blobs, seals, name, manifest, image, diskBytes, trustMemory: memory, signal })
    const now = timeText(clock.now())
    const seal: SealRow = {
      name,
      runtime: runtime.name,
      tenant: row.tenant,
      state: row.hash,
      memory: Number(memory),
      image_digest: row.image_digest,
      spec: null,
      used_bytes: await seals.usedBytes(name),
      created_at: now,
      used_at: now,
    }
    await context.db.insertInto('seals').values(seal).execute()
    return name
  } catch (error) {
    await dropSeal(context, seals, name)
    throw error
  }
}

/** Removes what is of no use; where it cannot be, the next start does. */
export const dropSeal = async ({ log }: Context, seals: SealStore, name: string): Promise<void> => {
  await seals.remove(name).catch((error: unknown) => {
    log.error({ err: toBrambleError(error), seal: name }, 'a seal could not be removed; the next start removes it')
  })
}

/** Forgets a seal, and removes it; false where it is in use. */
export const evictSeal = async (context: Context, row: SealRow): Promise<boolean> => {
  if (context.held.has(row.name)) return false
  await context.db.deleteFrom('seals').where('name', '=', row.name).execute()
  if (context.held.has(row.name)) {
    // Somebody was faster.
    await context.db.insertInto('seals').values(row).execute()
    return false
  }
  const seals = context.runtimes.find(({ name }) => name === row.runtime)?.seals
  if (seals) await dropSeal(context, seals, row.name)
  return true
}

/** At a start: what a crash left half made goes, and what is gone is forgotten. */
export const reconcileSeals = async (context: Context): Promise<void> => {
  const rows = await context.db.selectFrom('seals').selectAll().execute()
  for (const { name: runtime, seals } of context.runtimes) {
    if (!seals) continue
    const there = new Set((await seals.list()).map(({ name }) => name))
    const own = rows.filter((row) => row.runtime === runtime)
    const known = new Set(own.map(({ name }) => name))
    for (const name of there)
      if (!known.has(name)) {
        context.log.info({ seal: name }, 'a seal that nobody was told of was removed')
        await dropSeal(context, seals, name)
      }
    for (const row of own)
      if (!there.has(row.name)) await context.db.deleteFrom('seals').where('name', '=', row.name).execute()
  }
}
