import type { EvidenceReport, Job, JobExecution } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connectNetwork } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { findJob } from '../network/find-job.ts'
import { evidenceLines, jobLines } from '../network/job-view.ts'
import { addShowOptions, type ShowOptions, show } from '../network/show.ts'

interface GetOptions extends ConnectionOptions, ShowOptions {
  readonly receipts?: boolean
}

interface Found {
  readonly job: Job
  readonly executions: readonly JobExecution[]
  readonly evidence?: EvidenceReport
}

export default {
  name: 'get',
  summary: 'Show a job: who ran it, when, who agreed, and why it waits',
  configure(command) {
    addShowOptions(
      command
        .argument('<job>', 'its id, the end of it as `bramble list` shows it, or its name')
        .option('--receipts', 'check the signatures of those who agreed, and the result, on this host'),
    )
    addConnectionOptions(command, 'coordinator')
      .addHelpText(
        'after',
        '\nTimes of executions count from the submission. With --receipts, evidence that does not hold is exit code 125.',
      )
      .action(get)
  },
} satisfies CliCommand

const get = async (ref: string, options: GetOptions): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { id } = await findJob(bramble, ref)
  let invalid = false
  const look = async (signal: AbortSignal): Promise<Found> => {
    const [job, executions] = await Promise.all([
      bramble.jobs.get(id, { signal }),
      bramble.jobs.executions(id, { signal }),
    ])
    if (options.receipts !== true) return { job, executions }
    const [{ verifyReceipts }, { wasmCurve }] = await Promise.all([
      import('@bramble/sdk'),
      import('@bramble/identity/node'),
    ])
    const given = await bramble.jobs.receipts(id, { signal })
    const evidence = verifyReceipts(given, { job, comparator: job.comparator, curve: wasmCurve() })
    invalid = !evidence.valid
    return { job, executions, evidence }
  }
  await show(options, look, ({ job, executions, evidence }, view) => [
    ...jobLines(job, executions, view),
    ...(evidence === undefined ? [] : ['', ...evidenceLines(evidence, view)]),
  ])
  if (invalid) throw new ExitError(EXIT.failure)
}
