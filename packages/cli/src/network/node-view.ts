import type { NetworkNode, ReputationEntry } from '@bramble/sdk'
import { formatAge, formatMs } from '../format.ts'
import { type Column, formatTable, paint, safeLine } from '../terminal.ts'
import { pairLines, type ViewOptions } from './job-view.ts'
import { NODE_STYLES } from './node-columns.ts'
import { shortId } from './short-id.ts'

const RECORD_COLUMNS: Column<ReputationEntry>[] = [
  { title: 'WHEN', text: ({ at }) => formatAge(at) },
  {
    title: 'WHAT',
    text: ({ kind }) => kind,
    style: ({ kind }) =>
      kind === 'agreed'
        ? 'green'
        : kind === 'disagreed' || kind === 'invalid' || kind === 'convicted'
          ? 'red'
          : undefined,
  },
  { title: 'JOB', text: ({ job }) => (job === undefined ? '' : shortId(job)) },
  { title: 'TOOK', text: ({ ms }) => (ms === undefined ? '' : formatMs(ms)), right: true },
  { title: '', text: ({ message }) => message ?? '', spare: 0 },
]

/** One node, for a person: what it has, how far it is trusted, and the last entries of the record that this is folded from. */
export const nodeLines = (node: NetworkNode, record: readonly ReputationEntry[], options: ViewOptions): string[] => {
  const { report, trust, free } = node
  const labels = Object.entries(report.labels).map(([name, value]) => (value === '' ? name : `${name}=${value}`))
  const standing = trust.established ? 'established' : 'not established yet'
  return [
    `${paint('bold', node.id, options.color)}  ${paint(NODE_STYLES[node.status], node.status, options.color)}${node.name === undefined ? '' : `  ${safeLine(node.name)}`}`,
    ...pairLines(
      [
        ['owner', node.owner],
        ['why', node.message],
        [
          'has',
          `${report.cpus} cpus, ${report.memoryMb} MiB, ${report.slots} slots, ${report.gpus.length} GPUs, ${report.isolation.join(', ')}`,
        ],
        ['free', `${free.cpus} cpus, ${free.memoryMb} MiB, ${free.slots} slots; ${node.running} running`],
        ['where', [report.region, report.platform, report.url].filter((each) => each !== undefined).join(', ')],
        ['labels', labels.join(', ')],
        ['version', report.version],
        ['score', `${trust.score} of 1000`],
        [
          'correct',
          `${trust.correctness.toFixed(4)}: ${trust.agreements} agreed, ${trust.disagreements} did not; ${standing}`,
        ],
        ['available', trust.availability.toFixed(4)],
        ['speed', `${trust.speed.toFixed(2)} of the average; ${Math.round(report.speed)} of \`true\` a second`],
        ['joined', formatAge(node.registeredAt)],
        ['seen', node.lastSeenAt === undefined ? 'never' : formatAge(node.lastSeenAt)],
      ],
      options,
    ),
    ...(record.length === 0 ? [] : ['', ...formatTable(RECORD_COLUMNS, record, options).split('\n')]),
  ]
}
