import type { Bramble, InstanceEvent, StreamEvent } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect, connectNetwork } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { findInstance } from '../instances/find-instance.ts'
import { followJob } from '../network/follow-job.ts'
import { exitCodeOfJob } from '../network/job-exit.ts'
import { interrupt } from '../node/interrupt.ts'
import { type Output, processOutput } from '../run/output.ts'
import { hasColor, paint, safeLine } from '../terminal.ts'

interface LogsOptions extends ConnectionOptions {
  readonly follow?: boolean
  readonly json?: boolean
}

export default {
  name: 'logs',
  summary: 'Show what an execution, a job, or the commands of an instance, wrote',
  configure(command) {
    command
      .argument('<id>', 'of an execution or a job, or an instance by id or name')
      .option('-f, --follow', 'go on until the execution or the job ends, or Ctrl-C')
      .option('--json', 'every event as a line of JSON')
    addConnectionOptions(command).action(logs)
  },
} satisfies CliCommand

const logs = async (id: string, options: LogsOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await (id.startsWith('job_') ? connectNetwork : connect)(options)
  const output = processOutput()
  const signal = AbortSignal.any([interrupted.signal, output.readerGone])
  try {
    if (id.startsWith('job_')) return await jobLogs(bramble, id, options, output, signal)
    if (!id.startsWith('exe_')) return await instanceLogs(bramble, id, options, output, signal)
    for await (const event of bramble.executions.logs(id, { signal, follow: options.follow === true }))
      await show(event, options, output)
  } catch (error) {
    if (!output.readerGone.aborted) throw error
  }
}

const show = async (event: StreamEvent, options: LogsOptions, output: Output): Promise<void> => {
  if (options.json === true) await output.write('stdout', `${JSON.stringify(event)}\n`)
  else if (event.type === 'stdout' || event.type === 'stderr')
    await output.write(event.type, event.encoding === 'base64' ? Buffer.from(event.data, 'base64') : event.data)
}

/** What its nodes agreed on; with `follow`, waits for that. Before, it is shown to nobody, but of jobs that one node decides. */
const jobLogs = async (
  bramble: Bramble,
  id: string,
  { follow, json }: LogsOptions,
  output: Output,
  signal: AbortSignal,
): Promise<void> => {
  if (json === true && follow === true) {
    for await (const event of bramble.jobs.events(id, { signal }))
      await output.write('stdout', `${JSON.stringify(event)}\n`)
    return
  }
  const job = await bramble.jobs.get(id, { signal })
  if (follow !== true && job.finishedAt === undefined)
    throw new ExitError(
      EXIT.failure,
      `the job is ${job.status}: what it writes is shown once its nodes agree`,
      'With -f, this waits for that.',
    )
  const ended = await followJob(bramble, id, { output, quiet: json === true, signal })
  if (json === true) await output.write('stdout', `${JSON.stringify(ended.result ?? null)}\n`)
  else if (ended.result === undefined) exitCodeOfJob(ended, 0)
}

/** What is kept of its stream, then, with `follow`, what comes. */
const instanceLogs = async (
  bramble: Bramble,
  ref: string,
  options: LogsOptions,
  output: Output,
  signal: AbortSignal,
): Promise<void> => {
  const follow = options.follow === true
  const instance = await findInstance(bramble, ref, signal)
  await using stream = await instance.stream({ since: 'kept', processes: follow, signal })
  const events = stream.events()
  const last = stream.state?.window.last ?? 0
  if (!follow && stream.seq >= last) return
  for await (const event of events) {
    await showEvent(event, options, output)
    // An entry of the log may hold nothing to show: a heartbeat comes after all of them.
    if (!follow && (event.type === 'heartbeat' || ('seq' in event && event.type !== 'state' && event.seq >= last)))
      return
  }
}

const showEvent = async (event: InstanceEvent, { json, follow }: LogsOptions, output: Output): Promise<void> => {
  if (event.type === 'heartbeat') return
  if (json === true) {
    const { output: piece, ...rest } = 'output' in event ? event : { ...event, output: undefined }
    const whole = piece === undefined ? rest : { ...rest, data: piece.data, encoding: piece.encoding }
    await output.write('stdout', `${JSON.stringify(whole)}\n`)
    return
  }
  if (event.type === 'stdout' || event.type === 'stderr') await output.write(event.type, event.output.bytes)
  else if (follow === true) {
    const text = sayingOf(event)
    const { stderr } = process
    if (text !== undefined) stderr.write(`${paint('dim', safeLine(text), hasColor(stderr))}\n`)
  }
}

/** What happens beside the output, as a line. */
const sayingOf = (event: InstanceEvent): string | undefined => {
  switch (event.type) {
    case 'started':
      return `${event.id} started, pid ${event.pid}`
    case 'exit':
      return `${event.id} ended with ${event.signal ?? event.code}${event.message === undefined ? '' : `: ${event.message}`}`
    case 'port_event':
      return `port ${event.port} ${event.event === 'open' ? 'is listened on' : 'is closed'}`
    case 'custom':
      return `${event.name} ${JSON.stringify(event.data)}`
    case 'state':
      return `the instance is ${event.status}${event.reason === undefined ? '' : `: ${event.reason}`}`
    case 'error':
      return `${event.code}: ${event.message}`
    default:
      return undefined
  }
}
