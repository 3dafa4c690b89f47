import type { Bramble, ExecutionRecord, Instance, InstanceStatus } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatAge, formatCommand, formatMs } from '../format.ts'
import { INSTANCE_STYLES } from '../instances/instance-columns.ts'
import { parseInteger } from '../parse-value.ts'
import { shortId } from '../snapshots/snapshot-columns.ts'
import { type Column, printList } from '../terminal.ts'

interface PsOptions extends ConnectionOptions {
  readonly all?: boolean
  readonly instances?: boolean
  readonly executions?: boolean
  readonly limit: number
  readonly status?: string
  readonly label?: string
  readonly json?: boolean
}

type Row = ({ kind: 'instance' } & Instance['info']) | ({ kind: 'execution' } & ExecutionRecord)

const EXECUTION_STYLES: Partial<Record<ExecutionRecord['status'], 'green' | 'red' | 'yellow' | 'cyan'>> = {
  queued: 'cyan',
  running: 'cyan',
  succeeded: 'green',
  failed: 'red',
  timeout: 'yellow',
  cancelled: 'yellow',
  oom: 'red',
  error: 'red',
}

const UNDER_WAY = ['running', 'queued'] as const
const INSTANCE_STATUSES: readonly string[] = Object.keys(INSTANCE_STYLES)

const statusText = (row: Row): string =>
  row.kind === 'execution' && row.status === 'failed'
    ? `failed (${row.exitCode ?? row.result?.signal ?? '?'})`
    : row.status

/** What a person wants to know of it beside its name: how long it may live, or what it ran and how long. */
const whatText = (row: Row): string => {
  if (row.kind === 'instance') {
    if (row.reason !== undefined) return row.reason
    const { parent, snapshotId, expiresAt } = row
    return [
      ...(snapshotId === undefined ? [] : [`saved in ${shortId(snapshotId)}`]),
      ...(parent === undefined ? [] : [`branch of ${shortId(parent)}`]),
      ...(expiresAt === null ? [] : [`expires in ${formatMs(Math.max(0, Date.parse(expiresAt) - Date.now()))}`]),
    ].join(', ')
  }
  const until = row.finishedAt === undefined ? Date.now() : Date.parse(row.finishedAt)
  return `${formatCommand(row.command)} (${formatMs(until - Date.parse(row.createdAt))})`
}

const COLUMNS: Column<Row>[] = [
  { title: 'ID', text: (row) => row.id },
  { title: 'NAME', text: (row) => (row.kind === 'instance' ? (row.name ?? '') : '') },
  {
    title: 'STATUS',
    text: statusText,
    style: (row) => (row.kind === 'instance' ? INSTANCE_STYLES[row.status] : EXECUTION_STYLES[row.status]),
  },
  { title: 'CREATED', text: (row) => formatAge(row.createdAt) },
  { title: 'IMAGE', text: (row) => row.image.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+$/, '$1') },
  { title: '', text: whatText },
]

export default {
  name: 'ps',
  summary: 'List instances, and executions that are under way',
  configure(command) {
    command
      .option('-a, --all', 'also instances that are stopped, and executions that have ended')
      .option('--instances', 'only instances')
      .option('--executions', 'only executions')
      .option('-n, --limit <number>', 'how many of each, newest first', parseInteger, 20)
      .option('--status <status>', 'only those in this state, ended ones too')
      .option('-l, --label <name[=value]>', 'only those with this label')
      .option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command).action(async (options: PsOptions) => {
      const bramble = await connect(options)
      const [found, ran] = await Promise.all([
        options.executions === true ? [] : instancesOf(bramble, options),
        options.instances === true ? [] : executionsOf(bramble, options),
      ])
      const empty = options.all === true ? 'nothing has run' : 'nothing runs; --all shows what did'
      printList<Row>([...found, ...ran], COLUMNS, { json: options.json === true, empty })
    })
  },
} satisfies CliCommand

const MAX_PAGE = 500

const instancesOf = async (bramble: Bramble, { all, limit, status, label }: PsOptions): Promise<Row[]> => {
  if (status !== undefined && !INSTANCE_STATUSES.includes(status)) return []
  const query = { status: status as InstanceStatus | undefined, label, limit: MAX_PAGE }
  const rows: Row[] = []
  if (limit > 0)
    for await (const { info } of bramble.instances.list(query)) {
      if (all !== true && status === undefined && info.status === 'stopped') continue
      if (rows.push({ kind: 'instance', ...info }) >= limit) break
    }
  return rows
}

const executionsOf = async (bramble: Bramble, { all, limit, status, label }: PsOptions): Promise<Row[]> => {
  if (status !== undefined && !Object.hasOwn(EXECUTION_STYLES, status)) return []
  const statuses = status !== undefined ? [status as ExecutionRecord['status']] : all === true ? [undefined] : UNDER_WAY
  const rows: Row[] = []
  for (const wanted of statuses) {
    if (rows.length >= limit) break
    for await (const record of bramble.executions.list({ status: wanted, label, limit: Math.min(limit, MAX_PAGE) }))
      if (rows.push({ kind: 'execution', ...record }) >= limit) break
  }
  return rows
}
