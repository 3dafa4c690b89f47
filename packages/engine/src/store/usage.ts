import type { UsageRow } from '@bramble/protocol'
import type { Kysely, Transaction } from 'kysely'
import type { EngineTables, UsageHourRow } from './tables.ts'

type Db = Kysely<EngineTables> | Transaction<EngineTables>

/** Adds to what the hours hold already. */
export const addUsage = async (db: Db, rows: readonly UsageHourRow[]): Promise<void> => {
  for (const row of rows)
    await db
      .insertInto('usage_hours')
      .values(row)
      .onConflict((conflict) =>
        conflict.columns(['hour', 'tenant', 'key_id']).doUpdateSet((eb) => ({
          executions: eb('usage_hours.executions', '+', eb.ref('excluded.executions')),
          cpu_seconds: eb('usage_hours.cpu_seconds', '+', eb.ref('excluded.cpu_seconds')),
          memory_gb_seconds: eb('usage_hours.memory_gb_seconds', '+', eb.ref('excluded.memory_gb_seconds')),
          egress_bytes: eb('usage_hours.egress_bytes', '+', eb.ref('excluded.egress_bytes')),
        })),
      )
      .execute()
}

/** The sums of the hours from `fromHour` on and before `toHour`, one row for each key. */
export const sumUsage = async (
  db: Db,
  query: { tenant?: string | undefined; fromHour: string; toHour: string },
): Promise<UsageRow[]> => {
  let select = db
    .selectFrom('usage_hours')
    .select((eb) => [
      'tenant',
      'key_id',
      eb.fn.sum('executions').as('executions'),
      eb.fn.sum('cpu_seconds').as('cpu_seconds'),
      eb.fn.sum('memory_gb_seconds').as('memory_gb_seconds'),
      eb.fn.sum('egress_bytes').as('egress_bytes'),
    ])
    .where('hour', '>=', query.fromHour)
    .where('hour', '<', query.toHour)
  if (query.tenant !== undefined) select = select.where('tenant', '=', query.tenant)
  const rows = await select.groupBy(['tenant', 'key_id']).orderBy('tenant').orderBy('key_id').execute()
  return rows.map((row) => ({
    tenant: row.tenant,
    keyId: row.key_id,
    executions: Number(row.executions),
    cpuSeconds: Number(row.cpu_seconds),
    memoryGbSeconds: Number(row.memory_gb_seconds),
    storageBytes: 0,
    egressBytes: Number(row.egress_bytes),
  }))
}

export const forgetUsageBefore = async (db: Db, hour: string): Promise<void> => {
  await db.deleteFrom('usage_hours').where('hour', '<', hour).execute()
}
