import { existsSync } from 'node:fs'
import { INSTANCE_MIGRATIONS, type InstanceTables } from '../store/instance-tables.ts'
import { databasePath } from '../store/instances.ts'
import { openDatabase } from '../store/open-database.ts'

/**
 * How many instances of a data directory go on (run, or are paused) without a node, by the name of their runtime. Throws
 * `conflict` while a node has them. After a restart of the host they are told of too, until a node finds them gone.
 */
export const countLeft = async (dataDirectory: string): Promise<ReadonlyMap<string, number>> => {
  const path = databasePath(dataDirectory)
  if (!existsSync(path)) return new Map()
  const db = await openDatabase<InstanceTables>({ path, owner: 'instances', migrations: INSTANCE_MIGRATIONS })
  try {
    const rows = await db
      .selectFrom('instances')
      .select((select) => ['runtime', select.fn.countAll<number>().as('count')])
      .where('status', 'in', ['running', 'paused'])
      .where('sandbox_id', 'is not', null)
      .where('doomed', '=', 0)
      .where('made', '=', 1)
      .groupBy('runtime')
      .execute()
    return new Map(rows.map(({ runtime, count }) => [runtime, Number(count)]))
  } finally {
    await db.destroy()
  }
}
