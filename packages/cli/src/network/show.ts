import type { Command } from 'commander'
import { watchScreen } from '../live-screen.ts'
import { interrupt } from '../node/interrupt.ts'
import { parseDuration } from '../parse-value.ts'
import { hasColor } from '../terminal.ts'
import type { ViewOptions } from './job-view.ts'

export interface ShowOptions {
  readonly json?: boolean
  readonly watch?: boolean
  readonly interval?: number
}

const INTERVAL_MS = 1000

export const addShowOptions = (command: Command): Command =>
  command
    .option('-w, --watch', 'draw it anew as it changes; q or Ctrl-C ends it')
    .option('--interval <time>', 'between two looks of --watch (default: 1s)', parseDuration)
    .option('--json', 'JSON, which is also what a pipe gets')

/**
 * Shows what `look` finds: as lines on a terminal, once or again and again; as JSON where it is asked for or read by a
 * program.
 */
export const show = async <T>(
  { json, watch, interval = INTERVAL_MS }: ShowOptions,
  look: (signal: AbortSignal) => Promise<T>,
  lines: (found: T, view: ViewOptions) => readonly string[],
): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const { stdout } = process
  const view = (): ViewOptions => ({ color: hasColor(stdout), width: stdout.columns })
  if (watch === true && json !== true && stdout.isTTY)
    return watchScreen(async (ended) => lines(await look(ended), view()), { intervalMs: interval, signal })
  const found = await look(signal)
  console.log(json === true || !stdout.isTTY ? JSON.stringify(found, null, 2) : lines(found, view()).join('\n'))
}
