/** For tests and benches that need the real thing. */
export { openPostgresServer, type PostgresServer, type PostgresServerOptions } from './testing/postgres-server.ts'
export { skipWithout, usePostgres } from './testing/use-postgres.ts'
