import type { ApiKey, Scope } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatAge } from '../format.ts'
import { collect, parseInteger, parseMegabytes, parseNumber } from '../parse-value.ts'
import { type Column, printList } from '../terminal.ts'

interface ListOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface AddOptions extends ListOptions {
  readonly tenant?: string
  readonly scope?: Scope[]
  readonly concurrent?: number
  readonly cpus?: number
  readonly memory?: number
  readonly rate?: number
}

const quotaText = ({ quota }: ApiKey): string => {
  const parts = [
    quota.concurrentSandboxes !== undefined && `${quota.concurrentSandboxes} at once`,
    quota.cpus !== undefined && `${quota.cpus} cpus`,
    quota.memoryMb !== undefined && `${quota.memoryMb} MiB`,
    quota.requestsPerSecond !== undefined && `${quota.requestsPerSecond}/s`,
  ]
  return parts.filter((part) => part !== false).join(', ') || '-'
}

const COLUMNS: Column<ApiKey>[] = [
  { title: 'ID', text: (key) => key.id },
  { title: 'NAME', text: (key) => key.name },
  { title: 'TENANT', text: (key) => key.tenant },
  { title: 'SCOPES', text: (key) => key.scopes.join(',') },
  { title: 'QUOTA', text: quotaText },
  { title: 'CREATED', text: (key) => formatAge(key.createdAt) },
  { title: 'LAST USED', text: (key) => (key.lastUsedAt === null ? 'never' : formatAge(key.lastUsedAt)) },
]

const list = async (options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  printList(await bramble.keys.list().all(), COLUMNS, { json: options.json === true, empty: 'no keys' })
}

const add = async (name: string, options: AddOptions): Promise<void> => {
  const bramble = await connect(options)
  const { tenant, scope, concurrent, cpus, memory, rate } = options
  const quota = { concurrentSandboxes: concurrent, cpus, memoryMb: memory, requestsPerSecond: rate }
  const made = await bramble.keys.add({ name, tenant, scopes: scope, quota })
  if (options.json === true) console.log(JSON.stringify(made, null, 2))
  else {
    // The key alone on standard output, so that `KEY=$(bramble keys add ci)` works.
    process.stderr.write(`made ${made.id} (${made.name}); this is the only time that the key is shown:\n`)
    console.log(made.key)
  }
}

const remove = async (ids: string[], options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const id of ids) {
    await bramble.keys.remove(id)
    console.log(id)
  }
}

const listOptions = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'keys',
  summary: 'List, add and remove API keys',
  configure(command) {
    listOptions(
      command.command('list', { isDefault: true }).description('list the keys, without the keys themselves'),
    ).action(list)
    listOptions(command.command('add').description('make a key and print it'))
      .argument('<name>', 'what it is for')
      .option('--tenant <name>', 'whose work it does (default: default)')
      .option('--scope <scope>', 'execute, read or admin; may be given many times (default: execute, read)', collect)
      .option('--concurrent <number>', 'sandboxes at once', parseInteger)
      .option('--cpus <number>', 'processors of all its sandboxes together', parseNumber)
      .option('--memory <size>', 'memory of all its sandboxes together: 512m, 2g', parseMegabytes)
      .option('--rate <number>', 'requests a second', parseNumber)
      .action(add)
    listOptions(command.command('rm').description('remove keys: they stop working at once'))
      .argument('<id...>', 'as `bramble keys` shows it')
      .action(remove)
  },
} satisfies CliCommand
