import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

/** A real Redis that keeps nothing. */
export interface RedisServer extends AsyncDisposable {
  readonly url: string
  /** As `kill -9`. */
  kill(): Promise<void>
}

/** Why this host has none goes into `skip`. */
export const openRedisServer = async (): Promise<RedisServer | { readonly skip: string }> => {
  if (spawnSync('redis-server', ['--version']).status !== 0) return { skip: 'redis-server is not installed' }
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', '/tmp']
  const child = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }
  for await (const line of createInterface(child.stdout)) if (line.includes('Ready to accept connections')) break
  child.stdout.resume()
  return { url: `redis://127.0.0.1:${port}/`, kill, [Symbol.asyncDispose]: kill }
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address ? address.port : 0
}
