import { type Migration, openDatabase } from '@bramble/engine'
import { type InstanceId, instanceIdSchema } from '@bramble/protocol'

/** An instance that this node has for the network. */
export interface HeldInstance {
  readonly id: InstanceId
  /** Of the network. */
  readonly tenant: string
  /** Of its placement here. It never changes: a later placement, here or elsewhere, is another copy. */
  readonly epoch: number
  /** It is about to go on elsewhere: tokens of its route are refused. */
  readonly fenced: boolean
}

/** What the node holds for the network, in memory and on disk: each change is on disk before it resolves. */
export interface HeldInstances {
  get(id: string): HeldInstance | undefined
  all(): HeldInstance[]
  put(held: HeldInstance): Promise<void>
  delete(id: InstanceId): Promise<void>
  close(): Promise<void>
}

interface HeldRow {
  id: string
  tenant: string
  epoch: number
  fenced: number
}

const MIGRATIONS: readonly Migration[] = [
  {
    name: '1-held-instances',
    up: async (db) => {
      await db.schema
        .createTable('held_instances')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('epoch', 'integer', (column) => column.notNull())
        .addColumn('fenced', 'integer', (column) => column.notNull())
        .execute()
    },
  },
]

export const openHeldInstances = async (path: string): Promise<HeldInstances> => {
  const db = await openDatabase<{ held_instances: HeldRow }>({ path, owner: 'network', migrations: MIGRATIONS })
  const byId = new Map<string, HeldInstance>()
  for (const row of await db.selectFrom('held_instances').selectAll().execute())
    byId.set(row.id, { ...row, id: instanceIdSchema.parse(row.id), fenced: row.fenced === 1 })
  let closed: Promise<void> | undefined
  return {
    get: (id) => byId.get(id),
    all: () => [...byId.values()],
    put: async (held) => {
      const row = { ...held, fenced: Number(held.fenced) }
      const { epoch, fenced } = row
      await db
        .insertInto('held_instances')
        .values(row)
        .onConflict((conflict) => conflict.column('id').doUpdateSet({ epoch, fenced }))
        .execute()
      byId.set(held.id, held)
    },
    delete: async (id) => {
      await db.deleteFrom('held_instances').where('id', '=', id).execute()
      byId.delete(id)
    },
    close: () => {
      closed ??= db.destroy()
      return closed
    },
  }
}
