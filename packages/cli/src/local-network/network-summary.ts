import { formatCommand, formatMs } from '../format.ts'
import { shortId } from '../network/short-id.ts'
import { paint as painted, safeLine } from '../terminal.ts'
import type { FirstJob } from './first-job.ts'

/** What `bramble up --nodes` has to say once the network takes jobs. */
export interface NetworkSummary {
  readonly type: 'ready'
  readonly url: string
  readonly apiKey: string
  readonly network: string
  readonly nodes: readonly { readonly id: string; readonly url: string; readonly slots: number }[]
  readonly runtimes: readonly string[]
  readonly dataDirectory: string
  readonly pid: number
  readonly isolated: boolean
  readonly startedInMs: number
  readonly firstJob: FirstJob | undefined
  /** Where the log goes; undefined when it goes to standard output. */
  readonly logFile: string | undefined
}

/** The summary for a person. */
export const describeNetwork = (summary: NetworkSummary, color: boolean): string => {
  const paint = (style: Parameters<typeof painted>[0], text: string): string => painted(style, text, color)
  const row = (name: string, value: string): string => `  ${paint('dim', name.padEnd(9))} ${value}`
  const { firstJob, nodes } = summary
  const lines = ['', paint('bold', `A network of ${nodes.length} nodes is up, in ${formatMs(summary.startedInMs)}`), '']
  if (!summary.isolated)
    lines.push(paint('red', '  NOTHING ISOLATES THE COMMANDS (--no-isolation): run your own code only'), '')
  if (firstJob)
    lines.push(
      `  ${paint('cyan', `$ bramble submit -- ${formatCommand(firstJob.command)}`)}`,
      `  ${safeLine(firstJob.stdout.trimEnd())}`,
      `  ${paint('dim', `${firstJob.agreed} nodes agree, ${formatMs(firstJob.tookMs)}`)}`,
      '',
    )
  lines.push(row('URL', summary.url), row('API key', summary.apiKey))
  for (const [at, { id, url, slots }] of nodes.entries())
    lines.push(row(at === 0 ? 'nodes' : '', `${shortId(id)}  ${slots} slots  ${paint('dim', url)}`))
  lines.push(row('runtimes', summary.runtimes.join(', ')), row('data', summary.dataDirectory))
  if (summary.logFile !== undefined) lines.push(row('log', summary.logFile))
  lines.push(
    '',
    `  ${paint('dim', 'Next:')} bramble submit -- <command>, bramble list, bramble nodes`,
    `  ${paint('dim', 'All of it is on this machine: agreement shows that commands are deterministic,')}`,
    `  ${paint('dim', 'and nothing of trust.')}`,
    '',
  )
  return lines.join('\n')
}
