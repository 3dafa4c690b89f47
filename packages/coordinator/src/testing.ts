/** For tests and benches that need the real thing. */
export { openTestFront, problemOf, type TestFront } from './fronts/testing/open-test-front.ts'
export { connectWorker, dial, type SocketWorker, signedHello } from './fronts/testing/socket-worker.ts'
export { openPostgresServer, type PostgresServer } from './testing/postgres-server.ts'
export { commitOf, ended, resultOf, testIdentity } from './testing/test-network.ts'
export { skipWithout, usePostgres } from './testing/use-postgres.ts'
