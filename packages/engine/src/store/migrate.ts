import type { Kysely } from 'kysely'

/** One step of a schema. A step that was released is never changed; another one follows it. */
export interface Migration {
  readonly name: string
  /** Runs in a transaction of its own. Only what SQLite and PostgreSQL both know. */
  readonly up: (db: Kysely<unknown>) => Promise<void>
}

interface Tables {
  schema_migrations: { owner: string; name: string; applied_at: string }
}

/** Applies what `owner` has not applied yet, in order. A step that fails leaves the schema as it was before it. */
export const migrate = async <T>(kysely: Kysely<T>, owner: string, migrations: readonly Migration[]): Promise<void> => {
  const db = kysely as unknown as Kysely<Tables>
  await db.schema
    .createTable('schema_migrations')
    .ifNotExists()
    .addColumn('owner', 'text', (column) => column.notNull())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('applied_at', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('schema_migrations_pk', ['owner', 'name'])
    .execute()
  const rows = await db.selectFrom('schema_migrations').select('name').where('owner', '=', owner).execute()
  const applied = new Set(rows.map((row) => row.name))
  for (const { name, up } of migrations) {
    if (applied.has(name)) continue
    await db.transaction().execute(async (transaction) => {
      await up(transaction as unknown as Kysely<unknown>)
      const row = { owner, name, applied_at: new Date().toISOString() }
      await transaction.insertInto('schema_migrations').values(row).execute()
    })
  }
}
