import type { Kysely } from 'kysely'
import type { BranchRow, SnapshotTables } from './snapshot-tables.ts'

type Db = Kysely<SnapshotTables>

/** Those that follow `after`, oldest first. */
export const branchesOf = (db: Db, tenant: string, after: string, limit: number): Promise<BranchRow[]> =>
  db
    .selectFrom('branches')
    .selectAll()
    .where('tenant', '=', tenant)
    .where('instance_id', '>', after)
    .orderBy('instance_id')
    .limit(limit)
    .execute()

/** SQLite binds no more than 32,766 values. */
const MAX_VALUES = 10_000

/** What was made of those instances and snapshots: branches, and snapshots by their hashes. */
export const childrenOf = async (
  db: Db,
  tenant: string,
  parents: readonly string[],
): Promise<{ branches: BranchRow[]; snapshots: string[] }> => {
  const branches: BranchRow[] = []
  const snapshots: string[] = []
  for (let at = 0; at < parents.length; at += MAX_VALUES) {
    const some = parents.slice(at, at + MAX_VALUES)
    const ofParents = db.selectFrom('branches').selectAll().where('tenant', '=', tenant).where('parent', 'in', some)
    branches.push(...(await ofParents.execute()))
    const rows = await db
      .selectFrom('snapshots')
      .select('hash')
      .where('tenant', '=', tenant)
      .where((where) => where.or([where('source', 'in', some), where('parent', 'in', some)]))
      .execute()
    snapshots.push(...rows.map(({ hash }) => hash))
  }
  return { branches, snapshots }
}
