import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BrambleError } from '@bramble/protocol'
import { connectUnixSafely } from './connect.ts'

/** It waits 20 s for an earlier launcher to go, and 5 s for the kernel to let go of the disk image. */
const START_TIMEOUT_MS = 60_000
const READY = /^ready$/m

export interface LauncherOptions {
  /** Holds the disk image, the launcher's lock and its socket. One launcher at a time. */
  directory: string
  ociBinary: string
  /** Path of the sandboxes' cgroups below each hierarchy: `/bramble/<node>`. */
  cgroup: string
  hierarchies: readonly string[]
  /** A mount that the OCI runtime must not see. */
  hide?: string | undefined
  /** CRIU's command and its first arguments; absent where there is none. */
  criu?: readonly string[] | undefined
  /** Size of the sparse disk image when it is made; 0 puts writable layers on tmpfs. */
  diskBytes: number
}

export const launcherBinaryPath = (): string => fileURLToPath(new URL('../../launcher/build/launcher', import.meta.url))

/** The connection to the launcher of a directory; undefined when there is none. */
export const connectLauncher = async (directory: string): Promise<Socket | undefined> => {
  try {
    return await connectUnixSafely(join(directory, 'launcher.sock'))
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    // The socket of one that was killed is still there.
    if (['ENOENT', 'ECONNREFUSED', 'ECONNRESET'].includes(code)) return undefined
    throw error
  }
}

/**
 * Starts a launcher that outlives this process: in a session of its own, with nothing of ours but a pipe on which it says
 * that it takes connections, or why not.
 */
export const startLauncher = async (options: LauncherOptions): Promise<void> => {
  const binary = launcherBinaryPath()
  if (!existsSync(binary))
    throw new BrambleError('unsupported', { detail: 'the launcher is not built: run `./bramble setup`' })
  const child = spawn(
    binary,
    [
      ...['--directory', options.directory, '--oci', options.ociBinary, '--cgroup', options.cgroup],
      ...options.hierarchies.flatMap((path) => ['--hierarchy', path]),
      ...(options.hide ? ['--hide', options.hide] : []),
      ...['--disk-bytes', String(options.diskBytes)],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH ?? '' }, detached: true, cwd: '/' },
  )
  child.unref()
  const said = Promise.withResolvers<string>()
  let text = ''
  const timer = setTimeout(() => {
    child.kill('SIGKILL')
    text += `\nit was not ready after ${START_TIMEOUT_MS} ms`
  }, START_TIMEOUT_MS)
  child.once('error', said.reject)
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      text = (text + chunk.toString()).slice(-4096)
      if (READY.test(text)) said.resolve(text)
    })
  child.stdout.once('close', () => said.resolve(text))
  try {
    const words = await said.promise
    if (!READY.test(words))
      throw new BrambleError('sandbox_failed', {
        detail: `the launcher did not start: ${words.trim() || 'no reason given'}`,
      })
  } catch (cause) {
    if (cause instanceof BrambleError) throw cause
    throw new BrambleError('sandbox_failed', { detail: `the launcher did not start: ${String(cause)}`, cause })
  } finally {
    clearTimeout(timer)
    child.stdout.destroy()
    child.stderr.destroy()
  }
}
