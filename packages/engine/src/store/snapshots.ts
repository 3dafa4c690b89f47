import type { Kysely, Transaction } from 'kysely'
import type { SnapshotQuery } from '../snapshots/snapshots.ts'
import type { BranchRow, SealRow, SnapshotRow, SnapshotTables, StateRow } from './snapshot-tables.ts'

type Db = Kysely<SnapshotTables>
type Writer = Db | Transaction<SnapshotTables>

/** What a snapshot adds, in one commit. */
export interface NewSnapshot {
  readonly row: SnapshotRow
  readonly parents: readonly string[]
  readonly seal?: SealRow
  /** The instance that it was taken of: this is its newest state. */
  readonly head?: string
}

/** One that is there already (imported again, say) becomes what `row` says. */
export const insertSnapshot = async (db: Db, { row, parents, seal, head }: NewSnapshot): Promise<void> => {
  const { tenant, hash } = row
  await db.transaction().execute(async (transaction) => {
    await transaction
      .insertInto('snapshots')
      .values(row)
      .onConflict((conflict) => conflict.columns(['tenant', 'hash']).doUpdateSet(row))
      .execute()
    await writeLabels(transaction, row)
    await insertState(transaction, {
      state: hash,
      tenant,
      parents: JSON.stringify(parents),
      source: row.source,
      created_at: row.created_at,
    })
    if (seal) await transaction.insertInto('seals').values(seal).execute()
    // A newer state may have been kept while this one was stored.
    if (head !== undefined && (await headOf(transaction, head)) === parents[0])
      await setHead(transaction, head, tenant, hash)
  })
}

const writeLabels = async (db: Writer, { tenant, hash, labels }: SnapshotRow): Promise<void> => {
  await db.deleteFrom('snapshot_labels').where('tenant', '=', tenant).where('hash', '=', hash).execute()
  const rows = Object.entries(JSON.parse(labels) as Record<string, string>).map(([name, value]) => ({
    tenant,
    hash,
    name,
    value,
  }))
  if (rows.length > 0) await db.insertInto('snapshot_labels').values(rows).execute()
}

const insertState = async (db: Writer, row: StateRow): Promise<void> => {
  await db
    .insertInto('states')
    .values(row)
    .onConflict((conflict) => conflict.columns(['tenant', 'state']).doNothing())
    .execute()
}

const setHead = async (db: Writer, instance_id: string, tenant: string, state: string): Promise<void> => {
  await db
    .insertInto('heads')
    .values({ instance_id, tenant, state })
    .onConflict((conflict) => conflict.column('instance_id').doUpdateSet({ state }))
    .execute()
}

/** A state that is only a seal, of an instance whose newest it is. */
export const insertBase = async (
  db: Db,
  { seal, parents, head }: { seal: SealRow; parents: readonly string[]; head: string },
): Promise<void> => {
  const { state, tenant, created_at } = seal
  await db.transaction().execute(async (transaction) => {
    await transaction.insertInto('seals').values(seal).execute()
    await insertState(transaction, { state, tenant, parents: JSON.stringify(parents), source: head, created_at })
    await setHead(transaction, head, tenant, state)
  })
}

export const insertBranches = async (db: Db, rows: readonly BranchRow[]): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    await transaction.insertInto('branches').values(rows).execute()
    for (const { instance_id, tenant, state } of rows) await setHead(transaction, instance_id, tenant, state)
  })
}

export const deleteBranches = async (db: Db, ids: readonly string[]): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    for (const id of ids) {
      await transaction.deleteFrom('branches').where('instance_id', '=', id).execute()
      await transaction.deleteFrom('heads').where('instance_id', '=', id).execute()
    }
  })
}

export const deleteHeads = async (db: Db, ids: readonly string[]): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    for (const id of ids) await transaction.deleteFrom('heads').where('instance_id', '=', id).execute()
  })
}

export const headOf = async (db: Writer, instance: string): Promise<string | undefined> =>
  (await db.selectFrom('heads').select('state').where('instance_id', '=', instance).executeTakeFirst())?.state

export const parentsOf = async (db: Db, tenant: string, state: string): Promise<string[]> => {
  const row = await db
    .selectFrom('states')
    .select('parents')
    .where('tenant', '=', tenant)
    .where('state', '=', state)
    .executeTakeFirst()
  return row ? (JSON.parse(row.parents) as string[]) : []
}

/** What a state is one of, where anybody knows. */
export const sourceOf = async (db: Db, tenant: string, state: string): Promise<string | undefined> => {
  const row = await db
    .selectFrom('states')
    .select('source')
    .where('tenant', '=', tenant)
    .where('state', '=', state)
    .executeTakeFirst()
  return row?.source ?? undefined
}

export const changeSnapshot = async (db: Db, row: SnapshotRow, change: Partial<SnapshotRow>): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    await transaction
      .updateTable('snapshots')
      .set(change)
      .where('tenant', '=', row.tenant)
      .where('hash', '=', row.hash)
      .execute()
    if (change.labels !== undefined) await writeLabels(transaction, { ...row, ...change })
  })
}

export const deleteSnapshot = async (db: Db, tenant: string, hash: string): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    await transaction.deleteFrom('snapshot_labels').where('tenant', '=', tenant).where('hash', '=', hash).execute()
    await transaction.deleteFrom('snapshots').where('tenant', '=', tenant).where('hash', '=', hash).execute()
  })
}

/** By its hash or the beginning of it: at most two, so that one can tell whether it is the only one. */
export const snapshotsByHash = (db: Db, tenant: string, prefix: string): Promise<SnapshotRow[]> =>
  db
    .selectFrom('snapshots')
    .selectAll()
    .where('tenant', '=', tenant)
    .where('hash', '>=', prefix)
    // `g` follows what hex has.
    .where('hash', '<', `${prefix}g`)
    .limit(2)
    .execute()

/** The newest. */
export const snapshotByName = (db: Db, tenant: string, name: string): Promise<SnapshotRow | undefined> =>
  db
    .selectFrom('snapshots')
    .selectAll()
    .where('tenant', '=', tenant)
    .where('name', '=', name)
    .orderBy('created_at', 'desc')
    .orderBy('hash', 'desc')
    .limit(1)
    .executeTakeFirst()

/** Newest first. */
export const listSnapshots = async (
  db: Db,
  query: SnapshotQuery,
  after: { created_at: string; hash: string } | undefined,
  now: string,
): Promise<SnapshotRow[]> => {
  let select = db
    .selectFrom('snapshots')
    .selectAll()
    .where('tenant', '=', query.tenant)
    .where((where) => where.or([where('expires_at', 'is', null), where('expires_at', '>', now)]))
  if (after)
    select = select.where((where) =>
      where.or([
        where('created_at', '<', after.created_at),
        where.and([where('created_at', '=', after.created_at), where('hash', '<', after.hash)]),
      ]),
    )
  if (query.name !== undefined) select = select.where('name', '=', query.name)
  if (query.source !== undefined) select = select.where('source', '=', query.source)
  if (query.label !== undefined) {
    const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(query.label) ?? []
    select = select.where((where) => {
      let labelled = where
        .selectFrom('snapshot_labels')
        .select('hash')
        .where('snapshot_labels.tenant', '=', query.tenant)
        .where('snapshot_labels.name', '=', name)
      if (value !== undefined) labelled = labelled.where('value', '=', value)
      return where('hash', 'in', labelled)
    })
  }
  return await select.orderBy('created_at', 'desc').orderBy('hash', 'desc').limit(query.limit).execute()
}

/** How many snapshots a tenant has, and what those of a key take. */
export const storedBy = async (db: Db, tenant: string, keyId: string): Promise<{ count: number; bytes: number }> => {
  const of = (select: ReturnType<typeof all>) => select.executeTakeFirst()
  const all = () =>
    db
      .selectFrom('snapshots')
      .select((eb) => [eb.fn.countAll<number>().as('count'), eb.fn.sum<number>('added_bytes').as('bytes')])
      .where('tenant', '=', tenant)
  const [tenants, keys] = await Promise.all([of(all()), of(all().where('key_id', '=', keyId))])
  return { count: Number(tenants?.count ?? 0), bytes: Number(keys?.bytes ?? 0) }
}

export interface StoredByKey {
  readonly tenant: string
  readonly keyId: string
  readonly storageBytes: number
}

/** What the snapshots of each key take now. */
export const storedByKey = async (db: Db, tenant: string | undefined): Promise<StoredByKey[]> => {
  let select = db
    .selectFrom('snapshots')
    .select((eb) => ['tenant', 'key_id', eb.fn.sum<number>('added_bytes').as('bytes')])
  if (tenant !== undefined) select = select.where('tenant', '=', tenant)
  const rows = await select.groupBy(['tenant', 'key_id']).execute()
  return rows.map(({ tenant, key_id: keyId, bytes }) => ({ tenant, keyId, storageBytes: Number(bytes) }))
}
