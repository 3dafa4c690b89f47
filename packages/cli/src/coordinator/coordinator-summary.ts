import { paint as painted } from '../terminal.ts'

/** What `bramble coordinator` has to say once it takes requests. */
export interface CoordinatorSummary {
  readonly type: 'ready'
  readonly url: string
  readonly apiKey: string | undefined
  readonly network: string
  readonly leads: boolean
  /** Without a password. */
  readonly database: string
  readonly dataDirectory: string
  /** Where the log goes; undefined when it goes to standard output. */
  readonly logFile: string | undefined
}

/** The summary for a person. */
export const describeCoordinator = (summary: CoordinatorSummary, color: boolean): string => {
  const paint = (style: Parameters<typeof painted>[0], text: string): string => painted(style, text, color)
  const row = (name: string, value: string): string => `  ${paint('dim', name.padEnd(9))} ${value}`
  const { url, apiKey, logFile } = summary
  const lines = ['', paint('bold', `The coordinator is up${summary.leads ? '' : '; another one writes'}`), '']
  lines.push(row('URL', url))
  if (apiKey !== undefined) lines.push(row('API key', apiKey))
  lines.push(row('network', summary.network), row('database', summary.database), row('data', summary.dataDirectory))
  if (logFile !== undefined) lines.push(row('log', logFile))
  lines.push(
    '',
    `  ${paint('dim', 'A node joins with a token of')} bramble nodes invite --owner <name> --url ${url}`,
    `  ${paint('dim', 'and on its host')} bramble worker join ${url} --token <token>`,
    '',
    'Ctrl-C stops the coordinator.',
  )
  return lines.join('\n')
}
