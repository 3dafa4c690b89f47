import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, clientOf, findNode } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { interrupt } from '../node/interrupt.ts'
import type { LiveRun } from '../run/live-run.ts'
import { runLive } from '../run/run-live.ts'
import { addSpecOptions, type SpecOptions, specOf } from '../run/run-options.ts'

interface RunOptions extends SpecOptions, ConnectionOptions {
  readonly json?: boolean
  readonly isolation: boolean
  readonly logLevel?: string
}

export default {
  name: 'run',
  summary: 'Run a command in a fresh sandbox',
  configure(command) {
    addSpecOptions(command)
      .option('--json', 'print the result as JSON at the end instead of the output as it comes')
      .option('--no-isolation', 'without a node: run it as a plain process of this host, for your own code only')
      .option('--log-level <level>', 'without a node: what the one that is started for this logs (default: silent)')
    addConnectionOptions(command)
      .argument('<command...>', 'an argv; or one quoted line, which goes to `sh -c`')
      .passThroughOptions()
      .addHelpText(
        'after',
        '\nThe exit code is the command\'s. 124: it ran too long. 125: bramble failed. 130: Ctrl-C.\n\nExamples:\n  bramble run -- echo hello\n  bramble run --image python -- python3 -c "print(6*7)"\n  bramble run "ls /etc | wc -l"\n  bramble run --mode cached -- ./slow-but-always-the-same',
      )
      .action(run)
  },
} satisfies CliCommand

const run = async (words: string[], options: RunOptions): Promise<void> => {
  using interrupted = interrupt()
  const spec = await specOf(words, options)
  const start = await placeOf(options)
  await runLive(start, spec, { json: options.json === true, timeoutMs: options.timeout }, interrupted.signal)
}

/** On the node that is named or runs here; else on one that lives for this command. */
const placeOf = async (options: RunOptions): Promise<LiveRun> => {
  const address = findNode(options)
  if (address !== undefined) {
    if (!options.isolation)
      throw new ExitError(EXIT.failure, `a node runs at ${address.url}, so --no-isolation has no meaning`)
    const [{ onNode }, bramble] = await Promise.all([import('../run/on-node.ts'), clientOf(address)])
    return onNode(bramble)
  }
  const { inProcess } = await import('../run/in-process.ts')
  if (!options.isolation)
    process.stderr.write(
      'WARNING: --no-isolation: the command runs as a plain process of this host, with your rights.\n',
    )
  return inProcess({ noIsolation: !options.isolation, logLevel: options.logLevel })
}
