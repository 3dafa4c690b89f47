import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { openPostgresServer } from '@bramble/coordinator/testing'

export interface Server extends AsyncDisposable {
  readonly url: string
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

export const stopChild = async (child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill(signal)
  await ended
}

/** Redis as one would run it for a queue: an append-only file, flushed every second. */
export const startRedis = async (): Promise<Server> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-bench-redis-'))
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', directory]
  const child = spawn('redis-server', [...args, '--appendonly', 'yes', '--appendfsync', 'everysec'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  for await (const line of createInterface(child.stdout)) if (line.includes('Ready to accept connections')) break
  child.stdout.resume()
  return {
    url: `redis://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: async () => {
      await stopChild(child)
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** PostgreSQL as it is installed: every commit is on disk before it is answered. */
export const startPostgres = async (): Promise<Server> => {
  const server = await openPostgresServer({ fsync: true })
  if ('skip' in server) throw new Error(server.skip)
  return { url: await server.newDatabase(), [Symbol.asyncDispose]: () => server.close() }
}
