import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { chown, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface Server extends AsyncDisposable {
  readonly url: string
}

export const freePort = async (): Promise<number> => {
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

/** PostgreSQL as it is installed: every commit is on disk before it is answered. It does not run as root. */
export const startPostgres = async (): Promise<Server> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-bench-postgres-'))
  const idOf = (flag: string): number => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  const user = { uid: idOf('-u'), gid: idOf('-g') }
  await chown(directory, user.uid, user.gid)
  const bin = globSync('/usr/lib/postgresql/*/bin')
    .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .at(-1)
  if (bin === undefined) throw new Error('PostgreSQL is not installed: `./bramble setup --test` brings it')
  execFileSync(`${bin}/initdb`, ['-D', directory, '-U', 'bramble', '-A', 'trust'], {
    ...user,
    cwd: '/',
    stdio: 'ignore',
  })
  const port = await freePort()
  const child = spawn(`${bin}/postgres`, ['-D', directory, '-p', String(port), '-k', directory], {
    ...user,
    cwd: '/',
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  for await (const line of createInterface(child.stderr)) if (line.includes('ready to accept connections')) break
  child.stderr.resume()
  return {
    url: `postgres://bramble@127.0.0.1:${port}/postgres`,
    [Symbol.asyncDispose]: async () => {
      await stopChild(child, 'SIGINT')
      await rm(directory, { recursive: true, force: true })
    },
  }
}
