import { afterAll, beforeAll, type TestContext } from 'vitest'
import { openPostgresServer, type PostgresServer, type PostgresServerOptions } from './postgres-server.ts'

/** Drivers that must not be skipped: `REQUIRE_DRIVERS=postgres,redis`. */
export const required = (name: string): boolean => (process.env.REQUIRE_DRIVERS ?? '').split(',').includes(name)

/** Skips the test, and says why; fails it where `REQUIRE_DRIVERS` names what is missing. */
export const skipWithout = (context: TestContext, name: string, reason: string): never => {
  if (required(name)) throw new Error(`REQUIRE_DRIVERS names ${name}, which this host cannot run: ${reason}`)
  process.stderr.write(`skipped: ${context.task.name}: ${reason}\n`)
  return context.skip(reason)
}

/** The PostgreSQL of a test file: one server, started once, for databases of each test. */
export const usePostgres = (options: PostgresServerOptions = {}): ((context: TestContext) => PostgresServer) => {
  let server: PostgresServer | { readonly skip: string } | undefined
  beforeAll(async () => {
    server = await openPostgresServer(options)
  })
  afterAll(async () => {
    if (server && !('skip' in server)) await server.close()
  })
  return (context) => {
    if (!server) throw new Error('PostgreSQL was not started')
    return 'skip' in server ? skipWithout(context, 'postgres', server.skip) : server
  }
}
