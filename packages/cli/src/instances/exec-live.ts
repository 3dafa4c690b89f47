import type { Instance, ProcessEnd, StreamProcess } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'
import { exitCodeOf } from '../run/exit-code.ts'
import type { Output } from '../run/output.ts'

export interface ExecSettings {
  readonly env?: Record<string, string> | undefined
  readonly workdir?: string | undefined
  readonly user?: string | undefined
  readonly timeoutMs?: number | undefined
}

/** 128 + SIGPIPE: what a program gets that writes where nobody reads any more. */
const NOBODY_READS = 141
/** How long a command that was asked to end may take. */
const KILL_GRACE_MS = 2_000
const DAY_MS = 24 * 3_600_000

/** Runs a command without input, and resolves with its exit code. Aborting ends the command on its node. */
export const execPlain = async (
  instance: Instance,
  command: string | string[],
  settings: ExecSettings,
  output: Output,
  signal: AbortSignal,
): Promise<number> => {
  // Here it is a person who waits: what the instance has as the bound of a request is not theirs.
  const timeoutMs = settings.timeoutMs ?? DAY_MS
  const running = instance.exec(command, {
    ...settings,
    timeoutMs,
    signal: AbortSignal.any([signal, output.readerGone]),
  })
  try {
    for await (const event of running.stream()) {
      if (event.type === 'stdout' || event.type === 'stderr') await output.write(event.type, pieceOf(event))
      else if (event.type === 'result')
        return exitCodeOf(event.result, { timeoutMs, cancelledCode: signal.aborted ? EXIT.interrupted : undefined })
    }
  } catch (error) {
    if (output.readerGone.aborted) return NOBODY_READS
    throw error
  }
  throw new ExitError(EXIT.failure, 'the command ended without a result')
}

/**
 * Runs a command with this process's standard input, and resolves with its exit code. Aborting `signal` sends the command
 * SIGINT, and SIGKILL where that does not end it.
 */
export const execWithInput = async (
  instance: Instance,
  command: string | string[],
  { timeoutMs, ...settings }: ExecSettings,
  output: Output,
  signal: AbortSignal,
): Promise<number> => {
  await using stream = await instance.stream({ processes: false })
  await using running = await stream.exec(command, settings)
  let timedOut = false
  const timers: NodeJS.Timeout[] = []
  const kill = (how: string): void => void running.kill(how).catch(() => undefined)
  const later = (ms: number, work: () => void): void => void timers.push(setTimeout(work, ms))
  const onAbort = (): void => {
    kill('SIGINT')
    later(KILL_GRACE_MS, () => kill('SIGKILL'))
  }
  const onReaderGone = (): void => kill('SIGKILL')
  signal.addEventListener('abort', onAbort, { once: true })
  output.readerGone.addEventListener('abort', onReaderGone, { once: true })
  if (signal.aborted) onAbort()
  if (timeoutMs !== undefined)
    later(timeoutMs, () => {
      timedOut = true
      kill('SIGKILL')
    })
  void sendInput(running)
  try {
    for await (const piece of running) await output.write(piece.type, pieceOf(piece))
    const end = await running.wait()
    if (output.readerGone.aborted) return NOBODY_READS
    if (timedOut)
      throw new ExitError(
        124,
        `the command ran longer than ${timeoutMs} ms and was ended`,
        'Allow more with --timeout.',
      )
    return codeOf(end)
  } finally {
    for (const timer of timers) clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    output.readerGone.removeEventListener('abort', onReaderGone)
    // Reading it would keep this process, when the command no longer does.
    process.stdin.destroy()
  }
}

const pieceOf = (piece: { data: string; encoding?: string | undefined; bytes: Uint8Array }): string | Uint8Array =>
  piece.encoding === 'base64' ? piece.bytes : piece.data

const codeOf = ({ exitCode, message }: ProcessEnd): number => {
  // One that was never started could not say why itself.
  if (message !== undefined) throw new ExitError(exitCode, message)
  return exitCode
}

const sendInput = async (running: StreamProcess): Promise<void> => {
  try {
    for await (const chunk of process.stdin) await running.write(chunk)
    await running.closeStdin()
  } catch {
    // The command has ended, or the stream: whoever reads its output hears why.
  }
}
