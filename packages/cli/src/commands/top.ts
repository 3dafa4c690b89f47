import type { Bramble, Instance, InstanceStats } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatBytes } from '../format.ts'
import { INSTANCE_STYLES } from '../instances/instance-columns.ts'
import { pause, watchScreen } from '../live-screen.ts'
import { interrupt } from '../node/interrupt.ts'
import { parseDuration } from '../parse-value.ts'
import { type Column, formatTable, hasColor } from '../terminal.ts'

interface TopOptions extends ConnectionOptions {
  readonly interval?: number
  readonly label?: string
  readonly json?: boolean
}

/** What one instance uses now; rates are since the look before. */
interface Row {
  readonly id: string
  readonly name?: string | undefined
  readonly status: Instance['status']
  readonly cpuPercent: number | null
  readonly memoryBytes: number
  readonly memoryMb: number
  readonly diskBytes: number
  readonly egressBytesPerSecond: number | null
  readonly ingressBytesPerSecond: number | null
  readonly processes: number
}

interface Look {
  readonly atMs: number
  readonly stats: InstanceStats
}

const rateText = (rate: number | null): string => (rate === null ? '-' : `${formatBytes(rate)}/s`)

const COLUMNS: Column<Row>[] = [
  { title: 'INSTANCE', text: ({ name, id }) => name ?? id },
  { title: 'STATUS', text: ({ status }) => status, style: ({ status }) => INSTANCE_STYLES[status] },
  { title: 'CPU', text: ({ cpuPercent }) => (cpuPercent === null ? '-' : `${cpuPercent.toFixed(1)}%`), right: true },
  { title: 'MEMORY', text: (row) => `${formatBytes(row.memoryBytes)} of ${row.memoryMb} MiB`, right: true },
  { title: 'DISK', text: ({ diskBytes }) => formatBytes(diskBytes), right: true },
  { title: 'NET OUT', text: (row) => rateText(row.egressBytesPerSecond), right: true },
  { title: 'NET IN', text: (row) => rateText(row.ingressBytesPerSecond), right: true },
  { title: 'PROCS', text: ({ processes }) => String(processes), right: true },
]

export default {
  name: 'top',
  summary: 'Show what running instances use, as it changes',
  configure(command) {
    command
      .option('--interval <time>', 'between two looks: 500ms, 2s (default: 2s)', parseDuration)
      .option('-l, --label <name[=value]>', 'only those with this label')
      .option('--json', 'look twice, print it as JSON, and end; which is also what a pipe gets')
    addConnectionOptions(command).addHelpText('after', '\nCPU: 100% is one processor. q or Ctrl-C ends it.').action(top)
  },
} satisfies CliCommand

const top = async (options: TopOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const before = new Map<string, Look>()
  if (options.json === true || !process.stdout.isTTY) {
    await look(bramble, options, before, signal)
    await pause(options.interval ?? INTERVAL_MS, signal)
    console.log(JSON.stringify(await look(bramble, options, before, signal), null, 2))
    return
  }
  const intervalMs = options.interval ?? INTERVAL_MS
  await watchScreen(async (ended) => linesOf(await look(bramble, options, before, ended)), { intervalMs, signal })
}

const INTERVAL_MS = 2000
const MAX_SHOWN = 500

const look = async (
  bramble: Bramble,
  { label }: TopOptions,
  before: Map<string, Look>,
  signal: AbortSignal,
): Promise<Row[]> => {
  const found: Instance[] = []
  // Asking a paused one would wake it.
  for await (const instance of bramble.instances.list({ label, status: 'running', limit: MAX_SHOWN, signal })) {
    if (found.push(instance) >= MAX_SHOWN) break
  }
  const rows = await Promise.all(
    found.map(async (instance): Promise<Row | undefined> => {
      // It may be stopped, or gone, by now.
      const stats = await instance.stats({ signal }).catch(() => undefined)
      if (stats === undefined) return undefined
      const now = { atMs: Date.now(), stats }
      const row = rowOf(instance, now, before.get(instance.id))
      before.set(instance.id, now)
      return row
    }),
  )
  signal.throwIfAborted()
  return rows.filter((row) => row !== undefined).sort((left, right) => (right.cpuPercent ?? 0) - (left.cpuPercent ?? 0))
}

const rowOf = ({ id, name, status, info }: Instance, { atMs, stats }: Look, last: Look | undefined): Row => {
  const rate = (key: 'cpuMs' | 'egressBytes' | 'ingressBytes'): number | null =>
    last === undefined ? null : Math.max(0, ((stats[key] - last.stats[key]) / Math.max(1, atMs - last.atMs)) * 1000)
  const cpuMsPerSecond = rate('cpuMs')
  const { memoryBytes, diskBytes, processes } = stats
  return {
    id,
    name,
    status,
    cpuPercent: cpuMsPerSecond === null ? null : cpuMsPerSecond / 10,
    memoryBytes,
    memoryMb: info.resources.memoryMb,
    diskBytes,
    egressBytesPerSecond: rate('egressBytes'),
    ingressBytesPerSecond: rate('ingressBytes'),
    processes,
  }
}

const linesOf = (rows: readonly Row[]): string[] =>
  rows.length === 0
    ? ['no instance runs']
    : formatTable(COLUMNS, rows, { color: hasColor(process.stdout), width: process.stdout.columns }).split('\n')
