import type { Bramble, Job } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connectNetwork } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { followJob } from '../network/follow-job.ts'
import { exitCodeOfJob } from '../network/job-exit.ts'
import { addJobOptions, type JobOptions, jobOf } from '../network/job-options.ts'
import { evidenceLines } from '../network/job-view.ts'
import { ofNetwork } from '../network/network-call.ts'
import { Interrupted, interrupt } from '../node/interrupt.ts'
import { type Output, processOutput } from '../run/output.ts'
import { hasColor, paint } from '../terminal.ts'

interface SubmitOptions extends JobOptions, ConnectionOptions {
  readonly wait?: boolean
  readonly detach?: boolean
  readonly json?: boolean
}

export default {
  name: 'submit',
  summary: 'Submit a job to a network: several nodes run it, and what they agree on is its result',
  configure(command) {
    addJobOptions(command)
      .option('--wait', 'wait for the verdict, and show its result (default on a terminal)')
      .option('--detach', 'only submit it, and print its id')
      .option('--json', 'print the job as JSON')
    addConnectionOptions(command, 'coordinator')
      .argument('<command...>', 'an argv; or one quoted line, which goes to `sh -c`')
      .passThroughOptions()
      .addHelpText(
        'after',
        "\nThe exit code is that of the command on which the nodes agree. 124: it ran too long. 125: bramble failed, or\nthere is no result. 130: Ctrl-C, which cancels the job.\n\nExamples:\n  bramble submit -- echo hello\n  bramble submit -n 5 -k 3 --image python -- python3 -c 'print(6*7)'\n  bramble submit --policy fast --detach -- ./render 17\n  bramble submit --secret-env API_TOKEN -- ./fetch",
      )
      .action(submit)
  },
} satisfies CliCommand

/** 128 + SIGPIPE, as `run` has it. */
const NOBODY_READS = 141
const DEFAULT_TIMEOUT_MS = 60_000

const submit = async (words: string[], options: SubmitOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connectNetwork(options)
  const request = await jobOf(bramble, words, options)
  const submitted = await ofNetwork(bramble.jobs.submit(request, { signal: interrupted.signal }))
  const waits = options.detach !== true && (options.wait === true || process.stdout.isTTY)
  if (!waits) {
    console.log(options.json === true ? JSON.stringify(submitted, null, 2) : submitted.id)
    return
  }
  const { stderr } = process
  if (options.json !== true) stderr.write(`${paint('dim', `bramble: job ${submitted.id}`, hasColor(stderr))}\n`)
  const output = processOutput()
  const job = await untilEnd(bramble, submitted.id, options, output, interrupted.signal)
  if (options.json === true) await output.write('stdout', `${JSON.stringify(job, null, 2)}\n`)
  if (job.status === 'completed') await checkEvidence(bramble, job, options)
  process.exitCode = exitCodeOfJob(job, options.timeout ?? DEFAULT_TIMEOUT_MS)
}

/** Whoever leaves before the end wants no result: the job is cancelled. */
const untilEnd = async (
  bramble: Bramble,
  id: string,
  { json }: SubmitOptions,
  output: Output,
  interrupted: AbortSignal,
): Promise<Job> => {
  const signal = AbortSignal.any([interrupted, output.readerGone])
  try {
    return await followJob(bramble, id, { output, quiet: json === true, signal })
  } catch (error) {
    if (!signal.aborted) throw error
    await bramble.jobs.cancel(id)
    const { reason } = interrupted
    throw new ExitError(reason instanceof Interrupted ? reason.exitCode : NOBODY_READS)
  }
}

/** A result is shown with what it rests on; one that its receipts do not bear out ends the command with a failure. */
const checkEvidence = async (bramble: Bramble, job: Job, { json }: SubmitOptions): Promise<void> => {
  const [{ verifyReceipts }, { wasmCurve }] = await Promise.all([
    import('@bramble/sdk'),
    import('@bramble/identity/node'),
  ])
  const evidence = await bramble.jobs.receipts(job.id)
  const report = verifyReceipts(evidence, { job, comparator: job.comparator, curve: wasmCurve() })
  const { stderr } = process
  if (!report.valid) {
    stderr.write(`${evidenceLines(report, { color: hasColor(stderr) }).join('\n')}\n`)
    throw new ExitError(EXIT.failure, 'the receipts of this job do not bear its result out', 'Do not trust the result.')
  }
  if (json !== true && stderr.isTTY)
    stderr.write(`${paint('dim', (evidenceLines(report, { color: false }).at(-1) ?? '').trim(), hasColor(stderr))}\n`)
}
