import type { Job, JobStatus } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connectNetwork } from '../connection.ts'
import { JOB_COLUMNS } from '../network/job-columns.ts'
import { ofNetwork } from '../network/network-call.ts'
import { addShowOptions, type ShowOptions, show } from '../network/show.ts'
import { parseInteger } from '../parse-value.ts'
import { formatTable } from '../terminal.ts'

interface ListOptions extends ConnectionOptions, ShowOptions {
  readonly limit: number
  readonly status?: string
  readonly label?: string
}

const MAX_PAGE = 500

export default {
  name: 'list',
  summary: 'List the jobs of a network',
  configure(command) {
    addShowOptions(
      command
        .option('-n, --limit <number>', 'how many, newest first', parseInteger, 20)
        .option(
          '--status <status>',
          'pending, scheduled, running, verifying, completed, failed, cancelled, no_consensus',
        )
        .option('-l, --label <name[=value]>', 'only those with this label'),
    )
    addConnectionOptions(command, 'coordinator')
      .addHelpText('after', '\nAGREED: how many nodes speak for the result, of how many it takes.')
      .action(list)
  },
} satisfies CliCommand

const list = async (options: ListOptions): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { limit, label } = options
  const status = options.status as JobStatus | undefined
  const look = async (signal: AbortSignal): Promise<Job[]> => {
    const jobs: Job[] = []
    if (limit > 0)
      for await (const job of bramble.jobs.list({ status, label, limit: Math.min(limit, MAX_PAGE), signal }))
        if (jobs.push(job) >= limit) break
    return jobs
  }
  await show(
    options,
    (signal) => ofNetwork(look(signal)),
    (jobs, view) => (jobs.length === 0 ? ['no jobs'] : formatTable(JOB_COLUMNS, jobs, view).split('\n')),
  )
}
