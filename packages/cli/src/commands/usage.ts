import type { UsageRow } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatBytes } from '../format.ts'
import { parseDuration } from '../parse-value.ts'
import { type Column, printList } from '../terminal.ts'

interface UsageOptions extends ConnectionOptions {
  readonly since: number
  readonly tenant?: string
  readonly json?: boolean
}

const COLUMNS: Column<UsageRow>[] = [
  { title: 'TENANT', text: (row) => row.tenant },
  { title: 'KEY', text: (row) => row.keyId },
  { title: 'EXECUTIONS', text: (row) => String(row.executions), right: true },
  { title: 'CPU-SECONDS', text: (row) => row.cpuSeconds.toFixed(2), right: true },
  { title: 'MEMORY-GB-SECONDS', text: (row) => row.memoryGbSeconds.toFixed(2), right: true },
  { title: 'STORAGE', text: (row) => formatBytes(row.storageBytes), right: true },
  { title: 'EGRESS', text: (row) => formatBytes(row.egressBytes), right: true },
]

export default {
  name: 'usage',
  summary: 'Show what was used, by tenant and key',
  configure(command) {
    command
      .option('--since <time>', 'of the last: 1h, 7d', parseDuration, 30 * 86_400_000)
      .option('--tenant <name>', 'of another tenant: needs an admin key')
      .option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command).action(async (options: UsageOptions) => {
      const bramble = await connect(options)
      const since = new Date(Date.now() - options.since)
      const { items } = await bramble.usage({ since, tenant: options.tenant })
      printList(items, COLUMNS, { json: options.json === true, empty: 'nothing was used' })
    })
  },
} satisfies CliCommand
