import { BrambleError } from '@bramble/protocol'
import type { Agent, AgentProcess, ProcessExit } from '../agent/agent.ts'
import type { PathInput } from './sandbox-files.ts'

/** What an applet says on standard error is one short line; more is not kept. */
const maxMessageBytes = 4096
const SIGKILL = 9
const NO = 1
const NOT_FOUND = 2
const BAD_ARCHIVE = 3

/** Where and as whom the applets of one `SandboxFiles` run. */
export interface AppletDeps {
  readonly agent: Agent
  /** The agent's program, seen from the sandbox. */
  readonly agentPath: string
  readonly user?: string | undefined
}

export interface AppletCall {
  /** The applet's name, then its arguments. */
  readonly argv: readonly [string, ...PathInput[]]
  readonly user?: string | undefined
  readonly signal?: AbortSignal | undefined
  readonly stdin?: 'none' | 'pipe'
}

/** One run of an applet. Reading to the end, `fail`, or `close` lets go of it. */
export interface Applet {
  /** The next piece of standard output; undefined after the last, when the applet succeeded, else its error. */
  next(): Promise<Buffer | undefined>
  /** Feeds standard input from `content` and `last`, then ends it. A content that fails makes the applet fail with its error. */
  feed(content: Uint8Array | AsyncIterable<Uint8Array>, last?: Uint8Array): void
  /** Kills it; whoever reads gets `error` at once, for the sandbox may have fallen silent. */
  fail(error: unknown): void
  close(): void
}

/** Starts an applet. Aborting kills it, and whoever reads gets the signal's reason. */
export const startApplet = (deps: AppletDeps, call: AppletCall): Applet => {
  const { signal, user = deps.user, stdin = 'none' } = call
  signal?.throwIfAborted()
  const [, ...paths] = call.argv
  for (const path of paths) checkArgument(path)
  const command = deps.agent.exec({ argv: [deps.agentPath, ...call.argv], user, stdin })
  const events = command[Symbol.asyncIterator]()
  let message = ''
  let over: { error: unknown } | undefined
  let reading: ((error: unknown) => void) | undefined
  let stopFeeding: (() => void) | undefined

  const close = (): void => {
    signal?.removeEventListener('abort', onAbort)
    over ??= { error: new BrambleError('cancelled', { detail: 'the applet was closed' }) }
    stopFeeding?.()
    void events.return?.()
  }
  const fail = (error: unknown): void => {
    if (over) return
    over = { error }
    command.kill(SIGKILL)
    reading?.(error)
    close()
  }
  const onAbort = (): void => fail(signal?.reason)
  signal?.addEventListener('abort', onAbort)

  /** An event, or the error of whoever made the applet fail meanwhile. */
  const nextEvent = (): ReturnType<typeof events.next> =>
    new Promise((resolve, reject) => {
      reading = reject
      if (over) reject(over.error)
      else events.next().then(resolve, reject)
    })

  const next = async (): Promise<Buffer | undefined> => {
    try {
      for (;;) {
        const { done, value: event } = await nextEvent()
        if (done) throw new BrambleError('agent_protocol', { detail: 'a command ended without an exit' })
        if (event.type === 'stdout') return event.data
        if (event.type === 'stderr') message = (message + event.data.toString('utf8')).slice(0, maxMessageBytes)
        if (event.type !== 'exit') continue
        close()
        const error = errorOf(event, message.trim())
        if (error) throw error
        return undefined
      }
    } catch (error) {
      close()
      throw error
    }
  }

  const feed: Applet['feed'] = (content, last) => {
    /** Undefined once the applet has ended: a source that never does is not waited for. */
    const unlessOver = <T>(promise: Promise<T>): Promise<T | undefined> =>
      new Promise((resolve, reject) => {
        stopFeeding = () => resolve(undefined)
        if (over) resolve(undefined)
        promise.then(resolve, reject)
      })
    pump(command, content, unlessOver, last).catch(fail)
  }
  return { next, feed, fail, close }
}

type UnlessOver = <T>(promise: Promise<T>) => Promise<T | undefined>

const pump = async (
  command: AgentProcess,
  content: Uint8Array | AsyncIterable<Uint8Array>,
  unlessOver: UnlessOver,
  last: Uint8Array | undefined,
): Promise<void> => {
  if (content instanceof Uint8Array) await unlessOver(command.write(content))
  else {
    const source = content[Symbol.asyncIterator]()
    for (;;) {
      const step = await unlessOver(source.next())
      if (step?.done) break
      if (step !== undefined && (await unlessOver(command.write(step.value).then(() => true)))) continue
      // Whoever is in the middle of `next` answers this later, or never.
      source.return?.().catch(() => {})
      return
    }
  }
  if (last) await unlessOver(command.write(last))
  command.end()
}

const checkArgument = (path: PathInput): void => {
  const problem =
    path.length === 0
      ? 'it is empty'
      : (typeof path === 'string' ? path.includes('\0') : path.includes(0))
        ? 'it has a NUL byte'
        : undefined
  if (problem !== undefined) throw new BrambleError('invalid_request', { detail: `this is no path: ${problem}` })
}

const errorOf = (exit: ProcessExit, message: string): BrambleError | undefined => {
  if (exit.kind === 'failed' && exit.step === 'user')
    return new BrambleError('file_refused', { detail: `the user is not one of the sandbox: ${exit.message}` })
  if (exit.kind === 'failed')
    return new BrambleError('sandbox_failed', { detail: `the agent's program: ${exit.message} (${exit.step})` })
  // By the end of the sandbox, or by somebody in it.
  if (exit.kind === 'signalled')
    return new BrambleError('sandbox_died', { detail: `signal ${exit.signal} ended a program of the agent` })
  if (exit.code === 0) return undefined
  if (exit.code === NOT_FOUND) return new BrambleError('file_not_found', { detail: message })
  if (exit.code === BAD_ARCHIVE) return new BrambleError('invalid_request', { detail: `the archive: ${message}` })
  if (exit.code === NO) return new BrambleError('file_refused', { detail: message })
  return new BrambleError('sandbox_failed', { detail: `a program of the agent exited with ${exit.code}: ${message}` })
}

/** Runs to the end, and gives all it said, of which there may be `maxBytes`. */
export const collectApplet = async (applet: Applet, maxBytes: number): Promise<Buffer> => {
  const pieces: Buffer[] = []
  let bytes = 0
  for (let piece = await applet.next(); piece; piece = await applet.next()) {
    bytes += piece.length
    pieces.push(piece)
    if (bytes <= maxBytes) continue
    const error = new BrambleError('agent_protocol', { detail: `an applet said more than ${maxBytes} bytes` })
    applet.fail(error)
    throw error
  }
  return Buffer.concat(pieces)
}

/** What is left of an applet's output, after `first`: to be read to its end, or returned. */
export const appletBody = (applet: Applet, first?: Buffer): AsyncIterable<Buffer> => {
  let waiting = first
  let ended = false
  const iterator: AsyncIterator<Buffer> = {
    next: async () => {
      const value = waiting ?? (ended ? undefined : await applet.next())
      waiting = undefined
      ended = value === undefined
      return value === undefined ? { done: true, value: undefined } : { done: false, value }
    },
    return: () => {
      ended = true
      waiting = undefined
      applet.close()
      return Promise.resolve({ done: true, value: undefined })
    },
  }
  return { [Symbol.asyncIterator]: () => iterator }
}
