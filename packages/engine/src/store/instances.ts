import { join } from 'node:path'
import { instanceIdSchema, parse } from '@bramble/protocol'
import type { Kysely } from 'kysely'
import type { InstanceQuery } from '../instances/instances.ts'
import type { ExposureRow, InstanceRow, InstanceTables } from './instance-tables.ts'

type Db = Kysely<InstanceTables>

/** Where the instances of a data directory are. */
export const databasePath = (dataDirectory: string): string => join(dataDirectory, 'instances.db')

/** Several at once: one commit. */
export const insertInstances = async (
  db: Db,
  instances: readonly { readonly row: InstanceRow; readonly labels: Readonly<Record<string, string>> }[],
): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    for (const { row, labels } of instances) {
      const { id: instance_id, tenant } = row
      await transaction.insertInto('instances').values(row).execute()
      const rows = Object.entries(labels).map(([name, value]) => ({ instance_id, tenant, name, value }))
      if (rows.length > 0) await transaction.insertInto('instance_labels').values(rows).execute()
    }
  })
}

export type InstanceChange = Partial<Omit<InstanceRow, 'id' | 'tenant' | 'name' | 'spec'>>

export const updateInstance = async (db: Db, id: string, change: InstanceChange): Promise<void> => {
  await db.updateTable('instances').set(change).where('id', '=', id).execute()
}

/** Several at once: one commit. */
export const updateInstances = async (db: Db, changes: ReadonlyMap<string, InstanceChange>): Promise<void> => {
  if (changes.size === 0) return
  await db.transaction().execute(async (transaction) => {
    for (const [id, change] of changes)
      await transaction.updateTable('instances').set(change).where('id', '=', id).execute()
  })
}

export const deleteInstance = async (db: Db, id: string): Promise<void> => {
  await db.transaction().execute(async (transaction) => {
    await transaction.deleteFrom('instance_labels').where('instance_id', '=', id).execute()
    await transaction.deleteFrom('instance_exposures').where('instance_id', '=', id).execute()
    await transaction.deleteFrom('instances').where('id', '=', id).execute()
  })
}

export const loadInstances = async (db: Db): Promise<{ rows: InstanceRow[]; exposures: ExposureRow[] }> => ({
  rows: await db.selectFrom('instances').selectAll().orderBy('id').execute(),
  exposures: await db.selectFrom('instance_exposures').selectAll().orderBy('port').execute(),
})

export const upsertExposure = async (db: Db, row: ExposureRow): Promise<void> => {
  await db
    .insertInto('instance_exposures')
    .values(row)
    .onConflict((conflict) =>
      conflict
        .columns(['instance_id', 'port'])
        .doUpdateSet((given) => ({ visibility: given.ref('excluded.visibility') })),
    )
    .execute()
}

export const deleteExposure = async (db: Db, id: string, port: number): Promise<void> => {
  await db.deleteFrom('instance_exposures').where('instance_id', '=', id).where('port', '=', port).execute()
}

/** Newest first: ids sort by time. */
export const listInstances = async (db: Db, query: InstanceQuery): Promise<InstanceRow[]> => {
  let select = db.selectFrom('instances').selectAll().where('tenant', '=', query.tenant).where('doomed', '=', 0)
  if (query.cursor !== undefined) select = select.where('id', '<', parse(instanceIdSchema, query.cursor))
  if (query.status !== undefined) select = select.where('status', '=', query.status)
  if (query.label !== undefined) {
    const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(query.label) ?? []
    select = select.where((where) => {
      let labelled = where
        .selectFrom('instance_labels')
        .select('instance_id')
        .where('instance_labels.tenant', '=', query.tenant)
        .where('instance_labels.name', '=', name)
      if (value !== undefined) labelled = labelled.where('value', '=', value)
      return where('id', 'in', labelled)
    })
  }
  return await select.orderBy('id', 'desc').limit(query.limit).execute()
}
