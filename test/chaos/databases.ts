import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { openPostgresServer, type PostgresServer } from '@bramble/coordinator/testing'
import { hostProcesses, until } from '../leftovers.ts'
import { type Child, createChild } from './child.ts'
import type { Field } from './place.ts'

/** A real PostgreSQL whose postmaster can be killed, and a real Redis. */
export interface Databases extends AsyncDisposable {
  /** By the server's own socket: for who looks in from outside. */
  readonly url: string
  readonly socket: string
  /** The postmaster alone: its children find out for themselves. */
  killPostgres(): Promise<void>
  startPostgres(): Promise<void>
  readonly redis: Child
  readonly redisUrl: string
}

export const openDatabases = async (
  field: Field,
  directory: string,
  onFallen: (why: string) => void,
): Promise<Databases | { readonly skip: string }> => {
  const server = await openPostgresServer()
  if ('skip' in server) return server
  const url = await server.newDatabase()
  const folder = new URL(url).searchParams.get('host') ?? ''
  const port = 20_000 + (process.pid % 20_000)
  const args = ['--port', String(port), '--bind', field.address, '--protected-mode', 'no', '--save', '']
  const place = { address: field.address, port: async () => port, link: undefined }
  const redis = createChild({
    place: { ...place, wrap: (program, words) => [program, words] },
    program: 'redis-server',
    args: [...args, '--appendonly', 'no', '--dir', directory],
    log: join(directory, 'redis.log'),
    ready: 'Ready to accept connections',
    onFallen,
  })
  await redis.start().catch(async (error: unknown) => {
    await server.close()
    throw error
  })
  return {
    ...{ url, socket: join(folder, '.s.PGSQL.5432'), redis, redisUrl: `redis://${field.address}:${port}` },
    killPostgres: () => killPostmaster(server, folder),
    startPostgres: () => server.start(),
    [Symbol.asyncDispose]: async () => {
      await redis.end('SIGKILL')
      await server.close()
    },
  }
}

const killPostmaster = async (server: PostgresServer, folder: string): Promise<void> => {
  const pid = Number(readFileSync(join(folder, 'data/postmaster.pid'), 'utf8').split('\n')[0])
  const children = new Set(hostProcesses().flatMap((each) => (each.parent === pid ? [each.pid] : [])))
  process.kill(pid, 'SIGKILL')
  // Its shared memory is theirs until they have seen it.
  await until(
    'the end of the children of the postmaster',
    () => !hostProcesses().some((each) => children.has(each.pid)),
  )
  await server.crash()
}
