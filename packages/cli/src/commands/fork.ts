import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, clientOf, requireNode } from '../connection.ts'
import { interrupt } from '../node/interrupt.ts'
import { onNode } from '../run/on-node.ts'
import { runLive } from '../run/run-live.ts'
import { addCommandOptions, type SpecOptions, specOf } from '../run/run-options.ts'
import { orNoState, stateRef } from '../snapshots/state-ref.ts'

interface ForkOptions extends SpecOptions, ConnectionOptions {
  readonly json?: boolean
}

export default {
  name: 'fork',
  summary: 'Run a command in a branch of an instance, a snapshot or an execution, and keep what it left',
  configure(command) {
    command.argument('<parent>', 'an instance, a snapshot or an execution: id, beginning of one, or name')
    addCommandOptions(command).option('--json', 'print the result as JSON at the end instead of the output as it comes')
    addConnectionOptions(command)
      .argument('<command...>', 'an argv; or one quoted line, which goes to `sh -c`')
      .passThroughOptions()
      .addHelpText(
        'after',
        '\nThe parent goes on undisturbed. The id of the snapshot that is left goes to standard error. The exit codes are those of `run`.\n\nExample:\n  bramble fork box -- ./migrate --dry-run',
      )
      .action(fork)
  },
} satisfies CliCommand

const fork = async (ref: string, words: string[], options: ForkOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await clientOf(requireNode(options))
  const parent = await stateRef(bramble, ref, interrupted.signal)
  const spec = { ...(await specOf(words, options)), mode: 'branched' as const, parent }
  const how = { json: options.json === true, timeoutMs: options.timeout }
  await orNoState(runLive(onNode(bramble), spec, how, interrupted.signal))
}
