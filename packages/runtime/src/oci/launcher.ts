import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { BrambleError } from '@bramble/protocol'

/**
 * The launcher answers within its own limit for a start (30 s), or it hangs, and is killed. A sandbox whose end the kernel
 * draws out is no reason to end the others: that is an error of its own.
 */
const ANSWER_TIMEOUT_MS = 90_000
/** Largest message of the launcher that is read; the longest is the list of 4,096 ids. */
const MAX_MESSAGE_BYTES = 512 * 1024

/** Where the launcher keeps a folder for each sandbox, in its own mount namespace (`launcher/src/launcher.h`). */
export const LAUNCHER_RUN = '/run'
export const LAUNCHER_OCI_STATE = '/run/.oci'

export interface LauncherOptions {
  /** Holds the disk image. One launcher at a time. */
  directory: string
  ociBinary: string
  /** Path of the sandboxes' cgroups below each hierarchy: `/bramble/<node>`. */
  cgroup: string
  hierarchies: readonly string[]
  /** A mount that the OCI runtime must not see. */
  hide?: string | undefined
  /** Size of the sparse disk image; 0 puts writable layers on tmpfs. */
  diskBytes: number
}

export interface CreateRequest {
  id: string
  /** First host id of the 65,536 that the sandbox's ids 0 to 65,535 become. */
  uidBase: number
  diskBytes: number
  /** Layer directories, the topmost first. */
  lowers: readonly string[]
  /** The OCI configuration, as JSON. */
  config: string
}

/**
 * The runtime's end of the launcher (`packages/runtime/launcher/README.md`): a process in a mount namespace of its own
 * that makes sandboxes and removes them. Requests run side by side; each answers when it is done.
 */
export interface Launcher extends AsyncDisposable {
  readonly pid: number
  /** Removes the sandboxes that earlier launchers of this directory left. Returns how many. */
  reap(): Promise<number>
  /** Resolves when the agent of the sandbox listens. */
  create(request: CreateRequest): Promise<void>
  /** Resolves when nothing of the sandbox is left. One that is not there is destroyed already. */
  destroy(id: string): Promise<void>
  /** Bytes in the sandbox's writable layer. */
  diskUsed(id: string): Promise<number>
  list(): Promise<string[]>
  /** Resolves when the process has ended, asked or not. */
  readonly closed: Promise<void>
  /** Ends every sandbox and the process. */
  close(): Promise<void>
}

export const launcherBinaryPath = (): string => fileURLToPath(new URL('../../launcher/build/launcher', import.meta.url))

const encode = (fields: readonly string[]): Buffer => {
  const text = Buffer.from(`${fields.join('\0')}\0`)
  const length = Buffer.allocUnsafe(4)
  length.writeUInt32LE(text.length)
  return Buffer.concat([length, text])
}

const readMessages = (stream: Readable, onMessage: (fields: string[]) => void, onGarbage: () => void): void => {
  let rest: Buffer = Buffer.alloc(0)
  stream.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (rest.length - at >= 4) {
      const length = rest.readUInt32LE(at)
      if (length === 0 || length > MAX_MESSAGE_BYTES) return onGarbage()
      if (rest.length - at - 4 < length) break
      onMessage(rest.toString('utf8', at + 4, at + 4 + length - 1).split('\0'))
      at += 4 + length
    }
    rest = rest.subarray(at)
  })
}

interface Waiting {
  resolve(text: string): void
  reject(error: Error): void
  timer: NodeJS.Timeout
}

/** Starts a launcher; resolves when it can take requests. */
export const openLauncher = async (
  options: LauncherOptions,
  events: { onEnded: (id: string, oomKills: number) => void },
): Promise<Launcher> => {
  const binary = launcherBinaryPath()
  if (!existsSync(binary))
    throw new BrambleError('unsupported', { detail: 'the launcher is not built: run `./bramble setup`' })
  const child: ChildProcess = spawn(
    binary,
    [
      ...['--directory', options.directory, '--oci', options.ociBinary, '--cgroup', options.cgroup],
      ...options.hierarchies.flatMap((path) => ['--hierarchy', path]),
      ...(options.hide ? ['--hide', options.hide] : []),
      ...['--disk-bytes', String(options.diskBytes)],
    ],
    // A process group of its own: a Ctrl-C at the node's terminal is not for the launcher.
    { stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env.PATH ?? '' }, detached: true },
  )
  const { stdin, stdout, stderr } = child as ChildProcess & { stdin: Writable; stdout: Readable; stderr: Readable }
  const waiting = new Map<string, Waiting>()
  let complaint = ''
  let tags = 0
  stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-2048)
  })
  stdin.on('error', () => {})
  const { promise: closed, resolve: resolveClosed } = Promise.withResolvers<void>()
  const open = Promise.withResolvers<void>()
  const onEnd = (): void => {
    const error = new BrambleError('sandbox_failed', {
      detail: `the launcher ended: ${complaint.trim() || 'no reason given'}`,
    })
    open.reject(error)
    for (const { reject, timer } of waiting.values()) {
      clearTimeout(timer)
      reject(error)
    }
    waiting.clear()
    resolveClosed()
  }
  child.on('error', (error) => {
    complaint ||= error.message
    onEnd()
  })
  child.on('close', onEnd)
  readMessages(
    stdout,
    ([tag = '', kind, text = '', extra = '']) => {
      if (tag === '' && kind === 'open') open.resolve()
      else if (tag === '' && kind === 'fatal') complaint = text
      else if (tag === '' && kind === 'ended') events.onEnded(text, Number(extra) || 0)
      else {
        const waiter = waiting.get(tag)
        waiting.delete(tag)
        clearTimeout(waiter?.timer)
        if (kind === 'ok') waiter?.resolve(text)
        else waiter?.reject(new BrambleError('sandbox_failed', { detail: text }))
      }
    },
    () => child.kill('SIGKILL'),
  )
  const request = (operation: string, ...fields: string[]): Promise<string> => {
    const tag = String(++tags)
    const answer = Promise.withResolvers<string>()
    if (child.exitCode !== null || child.signalCode !== null)
      answer.reject(new BrambleError('sandbox_failed', { detail: 'the launcher has ended' }))
    else {
      const timer = setTimeout(() => {
        const detail = `no answer to \`${operation}\` within ${ANSWER_TIMEOUT_MS} ms`
        waiting.delete(tag)
        answer.reject(new BrambleError('sandbox_failed', { detail }))
        if (operation === 'destroy') return
        complaint ||= detail
        child.kill('SIGKILL')
      }, ANSWER_TIMEOUT_MS)
      waiting.set(tag, { ...answer, timer })
      stdin.write(encode([tag, operation, ...fields]))
    }
    return answer.promise
  }
  const close = (): Promise<void> => {
    stdin.end()
    return closed
  }
  await open.promise
  return {
    pid: child.pid ?? 0,
    reap: async () => Number(await request('reap')),
    closed,
    create: async ({ id, uidBase, diskBytes, lowers, config }) => {
      await request('create', id, String(uidBase), String(diskBytes), lowers.join('\n'), config)
    },
    destroy: async (id) => {
      await request('destroy', id)
    },
    diskUsed: async (id) => Number(await request('used', id)),
    list: async () => (await request('list')).split('\n').filter((id) => id !== ''),
    close,
    [Symbol.asyncDispose]: close,
  }
}
