import type { Job, JobExecution, JobStatus } from '@bramble/sdk'
import { formatAge, formatCommand, formatMs } from '../format.ts'
import type { Column } from '../terminal.ts'
import { shortId } from './short-id.ts'

type Style = 'red' | 'green' | 'yellow' | 'cyan' | 'dim'

export const JOB_STYLES: Readonly<Record<JobStatus, Style>> = {
  pending: 'cyan',
  scheduled: 'cyan',
  running: 'cyan',
  verifying: 'cyan',
  completed: 'green',
  failed: 'red',
  cancelled: 'yellow',
  no_consensus: 'red',
}

const VALIDITY_STYLES: Readonly<Record<JobExecution['validity'], Style>> = {
  undecided: 'cyan',
  agreed: 'green',
  disagreed: 'red',
  inconclusive: 'yellow',
  late: 'yellow',
  unneeded: 'dim',
  invalid: 'red',
}

/** How its result ended: as a command does. */
export const resultText = ({ result }: Pick<Job, 'result'>): string => {
  if (result === undefined) return ''
  if (result.status === 'succeeded' || result.status === 'failed')
    return `exit ${result.signal ?? result.exitCode ?? '?'}`
  return result.status
}

/** `2 of 2` once there is a verdict, before it what it takes. */
const agreementText = ({ verification, consensus, redundancy }: Job): string =>
  verification === undefined
    ? `${consensus} of ${redundancy} needed`
    : `${verification.agreed} of ${verification.needed}`

/** From submission to its end, or until now. */
export const tookMs = ({ createdAt, finishedAt }: Job, now = Date.now()): number =>
  (finishedAt === undefined ? now : Date.parse(finishedAt)) - Date.parse(createdAt)

export const JOB_COLUMNS: Column<Job>[] = [
  { title: 'ID', text: ({ id }) => shortId(id), style: () => 'yellow' },
  { title: 'NAME', text: ({ name }) => name ?? '', spare: 0 },
  { title: 'STATUS', text: ({ status }) => status, style: ({ status }) => JOB_STYLES[status] },
  { title: 'AGREED', text: agreementText },
  { title: 'SUBMITTED', text: ({ createdAt }) => formatAge(createdAt) },
  { title: 'TOOK', text: (job) => formatMs(Math.max(0, tookMs(job))), right: true, spare: 2 },
  { title: 'IMAGE', text: ({ image }) => image.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+$/, '$1'), spare: 3 },
  { title: '', text: (job) => job.waiting?.message ?? formatCommand(job.command) },
]

const sinceText = (time: string | undefined, from: string): string =>
  time === undefined ? '-' : `+${formatMs(Math.max(0, Date.parse(time) - Date.parse(from)))}`

/** Of one job: when each replica was placed, began and ended, counted from the submission. */
export const executionColumns = (job: Pick<Job, 'createdAt'>): Column<JobExecution>[] => [
  { title: 'EXECUTION', text: ({ id }) => shortId(id), style: () => 'yellow' },
  { title: 'NODE', text: ({ node }) => shortId(node) },
  { title: 'OWNER', text: ({ owner }) => owner, spare: 1 },
  { title: 'WHY', text: ({ reason }) => reason },
  { title: 'STATUS', text: ({ status }) => status },
  { title: 'VERDICT', text: ({ validity }) => validity, style: ({ validity }) => VALIDITY_STYLES[validity] },
  { title: 'LEASED', text: ({ leasedAt }) => sinceText(leasedAt, job.createdAt), right: true, spare: 2 },
  { title: 'STARTED', text: ({ startedAt }) => sinceText(startedAt, job.createdAt), right: true, spare: 3 },
  { title: 'ENDED', text: ({ finishedAt }) => sinceText(finishedAt, job.createdAt), right: true },
  { title: 'RESULT HASH', text: ({ resultHash }) => resultHash?.replace(/^0x/, '').slice(0, 12) ?? '-' },
]
