export { type Kysely, sql, type Transaction } from 'kysely'
export { type Migration, migrate } from './migrate.ts'
export { type DatabaseOptions, openDatabase } from './open-database.ts'
