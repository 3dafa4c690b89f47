import type { ExecutionResult } from '@bramble/protocol'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, clientOf, findNode } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { Interrupted, interrupt } from '../node/interrupt.ts'
import { exitCodeOf } from '../run/exit-code.ts'
import type { LiveRun } from '../run/live-run.ts'
import { processOutput } from '../run/output.ts'
import { addSpecOptions, type SpecOptions, specOf } from '../run/run-options.ts'

interface RunOptions extends SpecOptions, ConnectionOptions {
  readonly json?: boolean
  readonly isolation: boolean
  readonly logLevel?: string
}

/** 128 + SIGPIPE: what a program gets that writes where nobody reads any more. */
const NOBODY_READS = 141
const DEFAULT_TIMEOUT_MS = 60_000

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
        '\nThe exit code is the command\'s. 124: it ran too long. 125: bramble failed. 130: Ctrl-C.\n\nExamples:\n  bramble run -- echo hello\n  bramble run --image python -- python3 -c "print(6*7)"\n  bramble run "ls /etc | wc -l"',
      )
      .action(run)
  },
} satisfies CliCommand

const run = async (words: string[], options: RunOptions): Promise<void> => {
  using interrupted = interrupt()
  const spec = await specOf(words, options)
  const start = await placeOf(options)
  const output = processOutput()
  const signal = AbortSignal.any([interrupted.signal, output.readerGone])
  let result: ExecutionResult | undefined
  for await (const event of start(spec, signal)) {
    if (event.type === 'result') result = event.result
    else if (options.json !== true) {
      const wait = output.write(event.type, event.data)
      if (wait !== undefined) await wait
    }
  }
  if (result === undefined) throw new ExitError(EXIT.failure, 'the command ended without a result')
  if (options.json === true) await output.write('stdout', `${JSON.stringify(result, null, 2)}\n`)
  const { reason } = interrupted.signal
  const cancelledCode =
    reason instanceof Interrupted ? reason.exitCode : output.readerGone.aborted ? NOBODY_READS : undefined
  process.exitCode = exitCodeOf(result, { timeoutMs: options.timeout ?? DEFAULT_TIMEOUT_MS, cancelledCode })
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
