import type { EvidenceReport, Job, JobExecution } from '@bramble/sdk'
import { formatAge, formatBytes, formatCommand, formatMs } from '../format.ts'
import { formatTable, paint, safeLine } from '../terminal.ts'
import { executionColumns, JOB_STYLES, resultText, tookMs } from './job-columns.ts'
import { shortId } from './short-id.ts'

export interface ViewOptions {
  readonly color: boolean
  readonly width?: number | undefined
}

type Pair = readonly [name: string, text: string | undefined]

/** Names and what they are, aligned; those without are left out. */
export const pairLines = (pairs: readonly Pair[], { color }: ViewOptions): string[] => {
  const shown = pairs.filter((pair): pair is [string, string] => pair[1] !== undefined && pair[1] !== '')
  const width = Math.max(0, ...shown.map(([name]) => name.length))
  return shown.map(([name, text]) => `  ${paint('dim', name.padEnd(width), color)}  ${safeLine(text)}`)
}

/** Why nobody runs it yet. */
const waitingText = ({ waiting }: Job): string | undefined =>
  waiting === undefined ? undefined : `${waiting.message}; since ${formatAge(waiting.since)}`

const verdictText = ({ verification: verdict }: Job): string | undefined => {
  if (verdict === undefined) return undefined
  const { decidedBy, agreed, needed, executions, credibility, provisionalUntil, corrected } = verdict
  const by = {
    quorum: `${agreed} agreed, ${needed} needed`,
    alone: 'one proven node alone',
    audit: `an audit: ${agreed} agreed, ${needed} needed`,
    credibility: `${agreed} agreed${credibility === undefined ? '' : `, credible to ${credibility.toFixed(5)}`}`,
  }[decidedBy]
  return [
    by,
    `${executions} execution${executions === 1 ? '' : 's'}`,
    ...(provisionalUntil === undefined ? [] : [`asked again if that node lies, until ${provisionalUntil}`]),
    ...(corrected ? ['it replaced one whose node lied'] : []),
  ].join('; ')
}

const sizeText = (job: Job): string | undefined => {
  const { result } = job
  if (result === undefined) return undefined
  const outputs = Object.entries(result.outputs).map(([path, file]) =>
    'error' in file ? `${path}: ${file.error}` : `${path} ${formatBytes(file.sizeBytes)}`,
  )
  const streams = [`stdout ${formatBytes(result.stdout.sizeBytes)}`, `stderr ${formatBytes(result.stderr.sizeBytes)}`]
  return [resultText(job), ...streams, ...(result.truncated ? ['truncated'] : []), ...outputs].join(', ')
}

const MAX_STDOUT_CHARS = 60

/** What it wrote, where that is a line; else how it is seen. */
const stdoutText = ({ id, result }: Job): string | undefined => {
  if (result === undefined || result.stdout.sizeBytes === 0) return undefined
  const whole = `\`bramble logs ${id}\` shows it`
  const { stdout } = result
  if (!('content' in stdout) || stdout.encoding !== 'utf8') return whole
  const [line = '', ...more] = stdout.content.trimEnd().split('\n')
  return more.length > 0 || line.length > MAX_STDOUT_CHARS ? whole : line
}

const policyText = ({ policy, redundancy, consensus, strategy, comparator }: Job): string =>
  `${policy}: ${consensus} of ${redundancy} agree, ${strategy}${comparator === 'fuzzy' ? ', within tolerances' : ''}`

/** One job, for a person. */
export const jobLines = (job: Job, executions: readonly JobExecution[], options: ViewOptions): string[] => {
  const { color } = options
  const labels = Object.entries(job.labels).map(([name, value]) => (value === '' ? name : `${name}=${value}`))
  const ended = job.finishedAt === undefined ? 'under way for' : 'ended after'
  const lines = [
    `${paint('bold', job.id, color)}  ${paint(JOB_STYLES[job.status], job.status, color)}${job.name === undefined ? '' : `  ${safeLine(job.name)}`}`,
    ...pairLines(
      [
        ['command', formatCommand(job.command)],
        [
          'image',
          job.imageDigest === undefined || job.image === job.imageDigest
            ? job.image
            : `${job.image} (${job.imageDigest.slice(0, 19)})`,
        ],
        ['verified by', policyText(job)],
        ['nodes', job.diversity === 'relaxed' ? `executions may share ${job.relaxed.join(', ')}` : undefined],
        ['submitted', `${formatAge(job.createdAt)}, ${ended} ${formatMs(Math.max(0, tookMs(job)))}`],
        ['deadline', job.deadline],
        ['labels', labels.join(', ')],
        ['credits', `${job.creditsSpent} spent, ${job.creditsRequired} for each that agrees`],
        ['waits', waitingText(job)],
        ['verdict', verdictText(job)],
        ['result', sizeText(job)],
        ['stdout', stdoutText(job)],
        ['result hash', job.resultHash?.replace(/^0x/, '')],
        ['determinism', job.determinismClass],
        ['why', job.message],
      ],
      options,
    ),
  ]
  if (executions.length > 0) lines.push('', ...formatTable(executionColumns(job), executions, options).split('\n'))
  for (const { id, message } of executions)
    if (message !== undefined) lines.push(`${paint('yellow', shortId(id), color)}   ${safeLine(message)}`)
  return lines
}

/** What the check of the evidence found: one line for each receipt, and whether it holds. */
export const evidenceLines = (report: EvidenceReport, { color }: ViewOptions): string[] => {
  const mark = (good: boolean): string => paint(good ? 'green' : 'red', good ? '✓' : '✗', color)
  const { nodes, needed, faults, resultChecked } = report
  const verdict = report.valid
    ? `${nodes.length} node${nodes.length === 1 ? '' : 's'} signed this result, ${needed} needed; checked here${resultChecked ? ', with the result itself' : ''}`
    : 'the evidence does not hold'
  return [
    ...report.receipts.map(
      ({ node, execution, owner, validity, signed }) =>
        `  ${mark(signed)} ${signed ? 'signed' : 'not signed'} ${safeLine(`by ${node} (${owner}): ${shortId(execution)} ${validity}`)}`,
    ),
    ...faults.map(({ code, message }) => `  ${paint('red', code, color)}  ${safeLine(message)}`),
    `  ${mark(report.valid)} ${verdict}`,
  ]
}
