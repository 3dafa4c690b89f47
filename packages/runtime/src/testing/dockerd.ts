import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'

export interface Dockerd {
  readonly socketPath: string
  /** False: it ran before, and goes on running. */
  readonly own: boolean
  [Symbol.asyncDispose](): Promise<void>
}

const DEFAULT_SOCKET = '/var/run/docker.sock'
const maxKeptLines = 20
/** A loaded host takes seconds to start it; past this it will not start. */
const startTimeoutMs = 90_000

const answers = (socketPath: string): Promise<boolean> =>
  new Promise((resolve) => {
    const ping = request({ socketPath, path: '/_ping', timeout: 5000 }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    })
    ping.on('timeout', () => ping.destroy(new Error('no answer')))
    ping.on('error', () => resolve(false))
    ping.end()
  })

/** The socket that DOCKER_HOST names: `bramble test` starts one engine for all tests. */
const namedSocket = (): string | undefined => /^unix:\/\/(.+)$/.exec(process.env.DOCKER_HOST ?? '')?.[1]

/**
 * A Docker Engine for tests and benchmarks: the one at the default socket (or DOCKER_HOST's) where one answers, or else
 * one of our own in a temporary directory, which disposing stops and removes. It makes no bridge and touches no firewall
 * rule. Throws with the engine's last words when it does not start (no root, not installed).
 */
export const startDockerd = async (options: { socketPath?: string } = {}): Promise<Dockerd> => {
  const running = options.socketPath ?? namedSocket() ?? DEFAULT_SOCKET
  if (await answers(running)) return { socketPath: running, own: false, [Symbol.asyncDispose]: async () => undefined }
  const base = await mkdtemp(join(tmpdir(), 'bramble-dockerd-'))
  const socketPath = join(base, 'docker.sock')
  const child = spawn(
    'dockerd',
    [
      ['--host', `unix://${socketPath}`],
      ['--data-root', join(base, 'data')],
      ['--exec-root', join(base, 'exec')],
      ['--pidfile', join(base, 'dockerd.pid')],
      ['--iptables=false', '--ip6tables=false', '--bridge=none'],
    ].flat(),
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(`it ended with ${signal ?? code}`))
  })
  const lines: string[] = []
  const ready = new Promise<undefined>((resolve) => {
    createInterface({ input: child.stderr }).on('line', (line) => {
      lines.push(line)
      if (lines.length > maxKeptLines) lines.shift()
      if (line.includes('API listen on')) resolve(undefined)
    })
  })
  const stop = async () => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM')
      await once(child, 'exit')
    }
    await unmountBelow(base)
    await rm(base, { recursive: true, force: true })
  }
  const late = AbortSignal.timeout(startTimeoutMs)
  const timedOut = once(late, 'abort').then(() => `it was not ready after ${startTimeoutMs} ms`)
  const failure = await Promise.race([ready, exited, timedOut])
  if (failure !== undefined) {
    await stop()
    throw new Error(`dockerd did not start: ${failure}\n${lines.join('\n')}`)
  }
  return { socketPath, own: true, [Symbol.asyncDispose]: stop }
}

/**
 * The engine leaves its network namespaces mounted; and its data directory, which it mounts onto itself where `/` is
 * private, when that `/` is itself a directory of a larger file system, as in a container.
 */
const unmountBelow = async (base: string): Promise<void> => {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' ')[1] ?? '')
  for (const path of mounts.filter((mounted) => mounted.startsWith(`${base}/`)).reverse())
    await promisify(execFile)('umount', ['--lazy', path]).catch(() => undefined)
}
