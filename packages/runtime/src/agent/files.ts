import { BrambleError } from '@bramble/protocol'
import { cutoff } from '../cutoff.ts'
import type { Agent, AgentProcess, ProcessExit } from './agent.ts'
import { SANDBOX_AGENT_PATH } from './agent-binary.ts'

/** What the applets say on standard error is one short line; more is not kept. */
const MESSAGE_BYTES_MAX = 1024

interface FileOptions {
  readonly path: string
  /** The command's user: permissions are that user's. */
  readonly user?: string | undefined
  /** Relative paths begin here. */
  readonly workdir?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** Where the agent's program is, seen from the command. */
  readonly agentPath?: string | undefined
}

export interface PutFileOptions extends FileOptions {
  /** Permission bits, for example `0o644`. */
  readonly mode: number
  readonly content: Uint8Array | AsyncIterable<Uint8Array>
}

export interface GetFileOptions extends FileOptions {
  readonly maxBytes: number
}

export type GotFile =
  | { readonly content: Buffer }
  | { readonly error: 'not_found' | 'not_a_file' | 'too_large' | 'unreadable'; readonly sizeBytes?: number }

const failedApplet = (path: string, exit: ProcessExit): BrambleError => {
  const how =
    exit.kind === 'failed'
      ? `${exit.message} (${exit.step})`
      : exit.kind === 'signalled'
        ? `it was ended by signal ${exit.signal}`
        : `it exited with ${exit.code}`
  return new BrambleError('sandbox_failed', { detail: `the agent could not reach the file ${path}: ${how}` })
}

/**
 * Runs to the end; an abort kills the command and throws the signal's reason at once: the agent, whose word the end of the
 * command is, may have fallen silent.
 */
const collect = async (command: AgentProcess, signal: AbortSignal | undefined, maxBytes: number) => {
  const { cut, wait } = cutoff()
  const abort = (): void => {
    command.kill(9)
    cut(signal?.reason)
  }
  signal?.addEventListener('abort', abort)
  const events = command[Symbol.asyncIterator]()
  const stdout: Buffer[] = []
  let stdoutBytes = 0
  let message = ''
  try {
    if (signal?.aborted) abort()
    for (;;) {
      const { done, value: event } = await wait(events.next())
      if (done) break
      if (event.type === 'stdout') {
        stdoutBytes += event.data.length
        if (stdoutBytes <= maxBytes) stdout.push(event.data)
      } else if (event.type === 'stderr') {
        message = (message + event.data.toString('utf8')).slice(0, MESSAGE_BYTES_MAX)
      } else if (event.type === 'exit') {
        return { exit: event, stdout, stdoutBytes, message: message.trim() }
      }
    }
  } finally {
    signal?.removeEventListener('abort', abort)
    await events.return?.()
  }
  throw new BrambleError('agent_protocol', { detail: 'a command ended without an exit' })
}

const feed = async (command: AgentProcess, content: PutFileOptions['content']): Promise<void> => {
  try {
    if (content instanceof Uint8Array) await command.write(content)
    else for await (const piece of content) await command.write(piece)
    command.end()
  } catch (error) {
    // Without its end the content is never renamed into place.
    command.kill(9)
    throw error
  }
}

/**
 * Writes a file in the sandbox, whole or not at all; parents are made. A symbolic link at `path` is replaced, not
 * followed. Throws `invalid_request` when the sandbox does not let it be written (a folder in its place, no permission,
 * no room), and the error of `content` when that fails.
 */
export const putFile = async (agent: Agent, options: PutFileOptions): Promise<void> => {
  const { path, signal, user, workdir, agentPath = SANDBOX_AGENT_PATH } = options
  signal?.throwIfAborted()
  const argv = [agentPath, 'put', path, (options.mode & 0o7777).toString(8)]
  const command = agent.exec({ argv, user, workdir, stdin: 'pipe' })
  const fed = feed(command, options.content)
  fed.catch(() => {})
  const { exit, message } = await collect(command, signal, 0)
  if (exit.kind === 'signalled') await fed
  if (exit.kind !== 'exited' || exit.code === 127) throw failedApplet(path, exit)
  if (exit.code !== 0) throw new BrambleError('invalid_request', { detail: `the file cannot be written: ${message}` })
}

/**
 * Reads a regular file of the sandbox, of at most `maxBytes`. What is wrong with the file is an answer; a sandbox that
 * cannot be asked is an error.
 */
export const getFile = async (agent: Agent, options: GetFileOptions): Promise<GotFile> => {
  const { path, maxBytes, signal, user, workdir, agentPath = SANDBOX_AGENT_PATH } = options
  signal?.throwIfAborted()
  const command = agent.exec({ argv: [agentPath, 'get', path, String(maxBytes)], user, workdir })
  const { exit, stdout, stdoutBytes, message } = await collect(command, signal, maxBytes)
  if (exit.kind !== 'exited') throw failedApplet(path, exit)
  if (exit.code === 2) return { error: 'not_found' }
  if (exit.code === 3) return { error: 'not_a_file' }
  if (exit.code === 4 || stdoutBytes > maxBytes) {
    return /^\d{1,15}$/.test(message) ? { error: 'too_large', sizeBytes: Number(message) } : { error: 'too_large' }
  }
  if (exit.code === 5) return { error: 'unreadable' }
  if (exit.code !== 0) throw failedApplet(path, exit)
  return { content: stdout.length === 1 && stdout[0] ? stdout[0] : Buffer.concat(stdout) }
}

/**
 * The bytes of a regular file of the sandbox as they come, at the reader's pace; a reader that leaves ends it. Throws
 * `file_refused` after them when there is no such file, it is larger than `maxBytes`, or it could not be read to its end.
 */
export async function* streamFile(agent: Agent, options: GetFileOptions): AsyncGenerator<Buffer, void, undefined> {
  const { path, maxBytes, signal, user, workdir, agentPath = SANDBOX_AGENT_PATH } = options
  signal?.throwIfAborted()
  const command = agent.exec({ argv: [agentPath, 'get', path, String(maxBytes)], user, workdir })
  const { cut, wait } = cutoff()
  const abort = (): void => cut(signal?.reason)
  signal?.addEventListener('abort', abort)
  const events = command[Symbol.asyncIterator]()
  let leftBytes = maxBytes
  let over = false
  try {
    for (;;) {
      const { done, value: event } = await wait(events.next())
      if (done) break
      over = event.type === 'exit'
      if (event.type === 'exit' && event.kind !== 'exited') throw failedApplet(path, event)
      if (event.type === 'exit' && event.code === 0) return
      if (event.type === 'exit') break
      if (event.type !== 'stdout') continue
      leftBytes -= event.data.length
      if (leftBytes < 0) break
      yield event.data
    }
    throw new BrambleError('file_refused', { detail: `${path} could not be read to its end` })
  } finally {
    signal?.removeEventListener('abort', abort)
    if (!over) command.kill(9)
    await events.return?.()
  }
}
