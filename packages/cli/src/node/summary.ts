import { paint as painted } from '../terminal.ts'
import type { FirstCommand } from './first-command.ts'

/** What `bramble up` has to say once the node takes requests. */
export interface Summary {
  readonly type: 'ready'
  readonly url: string
  /** How an instance is reached by SSH; undefined where it is off. */
  readonly ssh: string | undefined
  readonly apiKey: string | undefined
  readonly dataDirectory: string
  readonly pid: number
  readonly runtimes: readonly string[]
  readonly unavailable: readonly { name: string; reason: string }[]
  readonly isolated: boolean
  readonly startedInMs: number
  readonly firstCommand: FirstCommand | undefined
  /** Where the log goes; undefined when it goes to standard output. */
  readonly logFile: string | undefined
}

const ms = (value: number): string => (value < 100 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`)

/** The summary for a person. */
export const describeSummary = (summary: Summary, color: boolean): string => {
  const paint = (style: Parameters<typeof painted>[0], text: string): string => painted(style, text, color)
  const row = (name: string, value: string): string => `  ${paint('dim', name.padEnd(9))} ${value}`
  const { firstCommand, apiKey, url } = summary
  const lines = ['', paint('bold', `Bramble is up, in ${ms(summary.startedInMs)}`), '']
  if (!summary.isolated)
    lines.push(paint('red', '  NOTHING ISOLATES THE COMMANDS (--no-isolation): run your own code only'), '')
  if (firstCommand) {
    const where = summary.isolated ? `in a fresh sandbox (${firstCommand.runtime})` : 'as a plain process'
    lines.push(
      `  ${paint('cyan', `$ bramble run -- ${quote(firstCommand.command)}`)}`,
      `  ${firstCommand.stdout.trimEnd()}`,
      `  ${paint('dim', `exit ${firstCommand.exitCode}, ${ms(firstCommand.tookMs)} ${where}`)}`,
      '',
    )
  }
  lines.push(row('URL', url))
  if (apiKey !== undefined) lines.push(row('API key', apiKey))
  if (summary.ssh !== undefined) lines.push(row('SSH', summary.ssh))
  lines.push(row('runtimes', summary.runtimes.join(', ')))
  for (const { name, reason } of summary.unavailable)
    lines.push(row('', paint('dim', `${name} is not here: ${reason}`)))
  lines.push(row('data', summary.dataDirectory))
  if (summary.logFile !== undefined) lines.push(row('log', summary.logFile))
  lines.push('')
  return lines.join('\n')
}

/** Words as one would type them in a shell. */
const quote = (words: readonly string[]): string =>
  words.map((word) => (/^[\w./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ')
