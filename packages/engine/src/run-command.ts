import { type BrambleError, toBrambleError } from '@bramble/protocol'
import type { Agent, AgentProcess, ExecRequest, ProcessExit } from '@bramble/runtime'
import { stdinBytes } from './command.ts'
import type { LiveExecution } from './live.ts'

/** How a command's stream ended. `started`: the agent said that it ran. */
export type CommandEnd =
  | { readonly kind: 'exit'; readonly exit: ProcessExit }
  | { readonly kind: 'broken'; readonly error: BrambleError; readonly started: boolean }

export interface RunCommandOptions {
  readonly request: ExecRequest
  readonly killGraceMs: number
  /** Ends the sandbox under a command that does not end when it is killed. */
  readonly destroy: () => void
}

const SIGKILL = 9

const feed = async (process: AgentProcess, live: LiveExecution): Promise<void> => {
  if (live.spec.stdin === undefined) return
  try {
    await process.write(stdinBytes(live.spec.stdin))
    process.end()
  } catch {
    // The command's own stream says how it ended.
  }
}

/**
 * Runs the command to its end, its output into `live`. Whoever streams sets the pace; else what is past the limit is
 * thrown away in the sandbox. A stop, or `timeoutMs` of running, kills the process group at once: there is no SIGTERM
 * first, since a limit that a command can talk its way past is none. What was written until then is kept.
 */
export const runCommand = async (
  live: LiveExecution,
  agent: Agent,
  { request, killGraceMs, destroy }: RunCommandOptions,
): Promise<CommandEnd> => {
  let started = false
  const discarded = new Set<'stdout' | 'stderr'>()
  let timer: NodeJS.Timeout | undefined
  try {
    const process = agent.exec(request)
    live.onStop = () => {
      clearTimeout(timer)
      timer = setTimeout(destroy, killGraceMs)
      process.kill(SIGKILL)
    }
    timer = setTimeout(() => live.stop('timeout'), live.spec.resources.timeoutMs)
    void feed(process, live)
    for await (const event of process) {
      switch (event.type) {
        case 'started':
          started = true
          break
        case 'stdout':
        case 'stderr': {
          const behind = live.output(event.type, event.data)
          const unwanted = live[event.type].truncated && (live.channel === undefined || live.stopReason !== undefined)
          if (unwanted && !discarded.has(event.type)) {
            discarded.add(event.type)
            process.discard(event.type)
          }
          if (behind) await behind
          break
        }
        case 'exit':
          return { kind: 'exit', exit: event }
        default:
          event satisfies never
      }
    }
    return { kind: 'broken', error: toBrambleError(new Error('the command ended without an exit')), started }
  } catch (error) {
    return { kind: 'broken', error: toBrambleError(error), started }
  } finally {
    clearTimeout(timer)
    live.onStop = undefined
  }
}
