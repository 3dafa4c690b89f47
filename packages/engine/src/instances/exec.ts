import { BrambleError, type ExecRequestBody, type ExecResult, toBrambleError } from '@bramble/protocol'
import type { AgentProcess, ExecRequest, ProcessExit } from '@bramble/runtime'
import { createChannel } from '../channel.ts'
import { stdinBytes } from '../command.ts'
import { keepOutput, type OutputRoom } from '../kept-output.ts'
import type { Clock } from '../options.ts'
import { type Ending, encodeText, endingOfExit, OUT_OF_MEMORY } from '../outcome.ts'
import type { InstanceExec } from './instances.ts'
import type { Box, LiveInstance } from './live-instance.ts'

export interface ExecDeps {
  readonly live: LiveInstance
  readonly box: Box
  readonly clock: Clock
  readonly killGraceMs: number
  readonly room: OutputRoom
}

type ExecEvent = InstanceExec extends AsyncIterable<infer Event> ? Event : never

const STREAM_HIGH_WATER_BYTES = 512 * 1024
const SIGKILL = 9
const KILLED_CODE = 128 + SIGKILL

const feed = async (process: AgentProcess, stdin: ExecRequestBody['stdin']): Promise<void> => {
  if (stdin === undefined) return
  try {
    await process.write(stdinBytes(stdin))
    process.end()
  } catch {
    // The command's own stream says how it ended.
  }
}

/** How often the kernel killed for want of memory since somebody looked last. */
const newOomKills = async (box: Box): Promise<number> => {
  const before = box.oomKills
  const stats = await box.sandbox.stats().catch(() => undefined)
  if (stats) box.oomKills = Math.max(box.oomKills, stats.oomKills)
  return box.oomKills - before
}

/** Only what looks like the kernel's doing is worth asking the kernel about. */
const endingOf = async (box: Box, exit: ProcessExit): Promise<Ending> => {
  const killed =
    (exit.kind === 'signalled' && exit.signal === SIGKILL) || (exit.kind === 'exited' && exit.code === KILLED_CODE)
  return endingOfExit(exit, killed ? await newOomKills(box) : 0)
}

/**
 * Runs one command in a sandbox that goes on afterwards. Aborting, or `timeoutMs`, kills its process group; one that does
 * not end even so is left behind after `killGraceMs`. `result` rejects where the sandbox ended under the command. Throws
 * `invalid_request` for a command that no agent takes.
 */
export const runExec = (
  { live, box, clock, killGraceMs, room }: ExecDeps,
  request: ExecRequest,
  body: ExecRequestBody,
  { signal, stream }: { signal: AbortSignal; stream: boolean },
): InstanceExec => {
  const { resources } = live.spec
  const timeoutMs = body.timeoutMs ?? resources.timeoutMs
  const maxOutputBytes = body.maxOutputBytes ?? resources.maxOutputBytes
  const kept = { stdout: keepOutput(maxOutputBytes, room), stderr: keepOutput(maxOutputBytes, room) }
  let stopped: 'timeout' | 'cancelled' | undefined
  let stop: (why: 'timeout' | 'cancelled') => void = () => {}
  const channel = stream
    ? createChannel<ExecEvent>({ highWaterBytes: STREAM_HIGH_WATER_BYTES, onLeave: () => stop('cancelled') })
    : undefined

  const take = async (process: AgentProcess): Promise<ProcessExit | undefined> => {
    const discarded = new Set<'stdout' | 'stderr'>()
    for await (const event of process) {
      switch (event.type) {
        case 'started':
          channel?.push(event)
          break
        case 'stdout':
        case 'stderr': {
          const { type, data } = event
          kept[type].add(data)
          const behind = channel?.push({ type, data }, data.length)
          if (kept[type].truncated && (channel === undefined || channel.left) && !discarded.has(type)) {
            discarded.add(type)
            process.discard(type)
          }
          if (behind) await behind
          break
        }
        case 'exit':
          return event
        default:
          event satisfies never
      }
    }
    return undefined
  }

  const run = async (process: AgentProcess): Promise<ExecResult> => {
    const startedMs = clock.monotonicMs()
    const abandoned = Promise.withResolvers<undefined>()
    let timer: NodeJS.Timeout | undefined
    stop = (why) => {
      if (stopped !== undefined) return
      stopped = why
      clearTimeout(timer)
      process.kill(SIGKILL)
      for (const output of ['stdout', 'stderr'] as const) process.discard(output)
      channel?.relax(0)
      timer = setTimeout(() => abandoned.resolve(undefined), killGraceMs)
    }
    const onAbort = (): void => stop('cancelled')
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    timer ??= setTimeout(() => stop('timeout'), timeoutMs)
    box.running.add(process)
    void feed(process, body.stdin)
    try {
      const exit = await Promise.race([take(process), abandoned.promise])
      const ending = stopped ? stoppedEnding(stopped, timeoutMs) : exit && (await endingOf(box, exit))
      if (!ending) throw new BrambleError('sandbox_died', { detail: 'the command ended without an exit' })
      return resultOf(ending, startedMs)
    } catch (thrown) {
      const error = toBrambleError(thrown)
      if (stopped) return resultOf(stoppedEnding(stopped, timeoutMs), startedMs)
      if ((await newOomKills(box)) > 0) return resultOf(OUT_OF_MEMORY, startedMs)
      throw error.code === 'agent_protocol'
        ? new BrambleError('sandbox_died', { detail: error.message, cause: error })
        : error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      box.running.delete(process)
      channel?.end()
      kept.stdout.release()
      kept.stderr.release()
    }
  }

  const resultOf = (ending: Ending, startedMs: number): ExecResult => ({
    instanceId: live.id,
    status: ending.status,
    exitCode: ending.exitCode,
    ...(ending.signal !== undefined && { signal: ending.signal }),
    ...(ending.message !== undefined && { message: ending.message }),
    ...encodeText(kept.stdout, kept.stderr),
    execMs: Math.round((clock.monotonicMs() - startedMs) * 1000) / 1000,
  })

  const result = run(box.sandbox.agent.exec(request))
  // Who streams may never look at it.
  result.catch(() => {})
  return {
    result,
    [Symbol.asyncIterator]: () => {
      if (!channel) throw new TypeError('its events are there with `stream: true` only')
      return channel[Symbol.asyncIterator]()
    },
  }
}

const stoppedEnding = (why: 'timeout' | 'cancelled', timeoutMs: number): Ending => ({
  status: why,
  exitCode: null,
  message:
    why === 'timeout' ? `the command ran longer than ${timeoutMs} ms (\`timeoutMs\`)` : 'the command was cancelled',
})
