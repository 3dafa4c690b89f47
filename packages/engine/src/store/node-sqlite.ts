import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import { type SqliteDatabase, SqliteDialect, type SqliteStatement } from 'kysely'

const MAX_STATEMENTS = 128

/** What SQLite can bind; booleans are integers there. */
const bindable = (parameters: readonly unknown[]): SQLInputValue[] =>
  parameters.map((value) => (typeof value === 'boolean' ? Number(value) : (value as SQLInputValue)))

const asStatement = (statement: StatementSync): SqliteStatement => ({
  reader: statement.columns().length > 0,
  all: (parameters) => statement.all(...bindable(parameters)),
  run: (parameters) => statement.run(...bindable(parameters)),
  iterate: (parameters) => statement.iterate(...bindable(parameters)),
})

/** Kysely's SQLite dialect over `node:sqlite`: prepared statements are kept, the least recently used goes first. */
export const nodeSqliteDialect = (database: DatabaseSync): SqliteDialect => {
  const statements = new Map<string, SqliteStatement>()
  const adapted: SqliteDatabase = {
    close: () => {
      statements.clear()
      if (database.isOpen) database.close()
    },
    prepare: (text) => {
      const known = statements.get(text)
      const statement = known ?? asStatement(database.prepare(text))
      statements.delete(text)
      statements.set(text, statement)
      if (statements.size > MAX_STATEMENTS) statements.delete(statements.keys().next().value ?? '')
      return statement
    },
  }
  return new SqliteDialect({ database: adapted })
}
