import type { StreamEvent } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { interrupt } from '../node/interrupt.ts'
import { processOutput } from '../run/output.ts'

interface LogsOptions extends ConnectionOptions {
  readonly follow?: boolean
  readonly json?: boolean
}

export default {
  name: 'logs',
  summary: 'Show what an execution wrote',
  configure(command) {
    command
      .argument('<id>', 'of the execution, as `bramble ps` shows it')
      .option('-f, --follow', 'go on until the execution ends')
      .option('--json', 'every event as a line of JSON')
    addConnectionOptions(command).action(logs)
  },
} satisfies CliCommand

const logs = async (id: string, options: LogsOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connect(options)
  const output = processOutput()
  const signal = AbortSignal.any([interrupted.signal, output.readerGone])
  try {
    for await (const event of bramble.executions.logs(id, { signal, follow: options.follow === true }))
      await show(event, options, output)
  } catch (error) {
    if (!output.readerGone.aborted) throw error
  }
}

const show = async (
  event: StreamEvent,
  options: LogsOptions,
  output: ReturnType<typeof processOutput>,
): Promise<void> => {
  if (options.json === true) await output.write('stdout', `${JSON.stringify(event)}\n`)
  else if (event.type === 'stdout' || event.type === 'stderr')
    await output.write(event.type, event.encoding === 'base64' ? Buffer.from(event.data, 'base64') : event.data)
}
