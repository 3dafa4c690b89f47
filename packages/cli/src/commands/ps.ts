import type { ExecutionRecord } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatAge, formatCommand, formatMs } from '../format.ts'
import { parseInteger } from '../parse-value.ts'
import { type Column, printList } from '../terminal.ts'

interface PsOptions extends ConnectionOptions {
  readonly limit: number
  readonly status?: ExecutionRecord['status']
  readonly label?: string
  readonly json?: boolean
}

const STYLES: Partial<Record<ExecutionRecord['status'], 'green' | 'red' | 'yellow' | 'cyan'>> = {
  queued: 'cyan',
  running: 'cyan',
  succeeded: 'green',
  failed: 'red',
  timeout: 'yellow',
  cancelled: 'yellow',
  oom: 'red',
  error: 'red',
}

const tookMs = (record: ExecutionRecord): number =>
  (record.finishedAt === undefined ? Date.now() : Date.parse(record.finishedAt)) - Date.parse(record.createdAt)

const COLUMNS: Column<ExecutionRecord>[] = [
  { title: 'ID', text: (record) => record.id },
  { title: 'STATUS', text: (record) => record.status, style: (record) => STYLES[record.status] },
  { title: 'EXIT', text: (record) => (record.exitCode === null ? '' : String(record.exitCode)), right: true },
  { title: 'CREATED', text: (record) => formatAge(record.createdAt) },
  { title: 'TOOK', text: (record) => formatMs(tookMs(record)), right: true },
  { title: 'IMAGE', text: (record) => record.image.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+$/, '$1') },
  { title: 'COMMAND', text: (record) => formatCommand(record.command) },
]

export default {
  name: 'ps',
  summary: 'List executions, newest first',
  configure(command) {
    command
      .option('-n, --limit <number>', 'how many', parseInteger, 20)
      .option('--status <status>', 'queued, running, succeeded, failed, timeout, cancelled, oom or error')
      .option('-l, --label <name[=value]>', 'only those with this label')
      .option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command).action(async (options: PsOptions) => {
      const bramble = await connect(options)
      const { limit, status, label } = options
      const records: ExecutionRecord[] = []
      if (limit > 0)
        for await (const record of bramble.executions.list({ status, label, limit: Math.min(limit, MAX_PAGE) }))
          if (records.push(record) >= limit) break
      printList(records, COLUMNS, { json: options.json === true, empty: 'no executions' })
    })
  },
} satisfies CliCommand

const MAX_PAGE = 500
