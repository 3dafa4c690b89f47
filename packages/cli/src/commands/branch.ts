import type { MadeBranches } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { defined } from '../defined.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatCommand, formatMs } from '../format.ts'
import { interrupt } from '../node/interrupt.ts'
import { collect, collectLabels, collectPairs, parseDuration, parseInteger } from '../parse-value.ts'
import { commandOf } from '../run/command-of.ts'
import { orNoState, stateRef } from '../snapshots/state-ref.ts'
import { waitingLine } from '../snapshots/waiting-line.ts'
import { hasColor, paint, safeLine } from '../terminal.ts'

interface BranchOptions extends ConnectionOptions {
  readonly count?: number
  readonly run?: string[]
  readonly memory?: boolean
  readonly env?: Record<string, string>
  readonly network?: string
  readonly ttl?: number
  readonly idleTtl?: number
  readonly label?: Record<string, string>
  readonly json?: boolean
}

export default {
  name: 'branch',
  summary: 'Make branches: instances that continue from another, from a snapshot, or from what an execution left',
  configure(command) {
    command
      .argument('<parent>', 'an instance, a snapshot or an execution: id, beginning of one, or name')
      .argument('[command...]', 'after --: run in every branch; the answer comes when all have ended')
      .option('-n, --count <number>', 'how many (default: 1)', parseInteger)
      .option(
        '--run <line>',
        'one branch for each of these, which goes to `sh -c` there; may be given many times',
        collect,
      )
      .option('--memory', 'with the processes of the parent, or not at all (default: with them where that works)')
      .option('--no-memory', 'its files alone')
      .option('-e, --env <name=value>', 'of all commands of the branches; may be given many times', collectPairs)
      .option('--network <kind>', 'none or egress (default: as the parent has it)')
      .option('--ttl <time>', 'how long they live: 30m, 2h, 7d (default: until they are deleted)', parseDuration)
      .option('--idle-ttl <time>', 'how long nobody may use them: 30m, 2h', parseDuration)
      .option('-l, --label <name=value>', 'a label to find them by; may be given many times', collectLabels)
      .option('--json', 'print the branches as JSON')
    addConnectionOptions(command)
      .addHelpText(
        'after',
        '\nTheir ids go to standard output, one on each line. With commands: the exit code is that of the first that failed.\n\nExamples:\n  bramble branch box -n 3\n  bramble branch box --run "./try --fast" --run "./try --careful"\n  bramble branches box\n  bramble merge $(bramble branch box -n 2 -- make)',
      )
      .action(branch)
  },
} satisfies CliCommand

const branch = async (ref: string, words: string[], options: BranchOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const wish = wishOf(words, options)
  const parent = await stateRef(bramble, ref, signal)
  const { memory, env, network, ttl: ttlMs, idleTtl: idleTtlMs, label: labels } = options
  const rest = defined({ memory, env, network: network as 'none' | 'egress' | undefined, ttlMs, idleTtlMs, labels })
  using line = waitingLine(`branches of ${ref}`)
  const began = performance.now()
  const made = await orNoState(bramble.branches.create(parent, { ...wish, ...rest, signal }))
  const took = performance.now() - began
  line[Symbol.dispose]()
  if (options.json === true) {
    const items = made.items.map(({ instance, ...item }) => ({ ...item, instance: instance.info }))
    console.log(JSON.stringify({ ...made, items }, null, 2))
  } else show(made, ref, took, wish.commands)
  const failed = made.items.find(({ result }) => result !== undefined && result.status !== 'succeeded')
  if (failed) process.exitCode = failed.result?.exitCode ?? EXIT.failure
}

const wishOf = (words: readonly string[], { count, run }: BranchOptions) => {
  if (run !== undefined && (words.length > 0 || count !== undefined))
    throw new ExitError(EXIT.failure, '--run makes a branch for each line: leave out the command and --count')
  if (run !== undefined) return { commands: run }
  if (words.length === 0) return { count: count ?? 1 }
  const command = formatCommand(commandOf(words))
  return { commands: Array.from({ length: count ?? 1 }, () => command) }
}

const show = ({ items, frozenMs }: MadeBranches, ref: string, took: number, commands?: readonly string[]): void => {
  const { stderr } = process
  const stood = frozenMs === undefined ? '' : `; it stood still for ${formatMs(frozenMs)}`
  const count = `${items.length} branch${items.length === 1 ? '' : 'es'}`
  stderr.write(`${count} of ${safeLine(ref)}, ${formatMs(took)}${stood}\n`)
  for (const [at, { instance, memory, result }] of items.entries()) {
    console.log(instance.id)
    if (result === undefined) continue
    const { status, exitCode, stdout, stderr: errors, encoding } = result
    const ended = status === 'succeeded' || status === 'failed' ? `exit ${exitCode}` : status
    const style = status === 'succeeded' ? 'green' : 'red'
    const head = `${paint(style, ended, hasColor(stderr))}  ${safeLine(commands?.[at] ?? '')}${memory ? '' : '  (without memory)'}`
    const output = [stdout, errors].map((text) =>
      encoding === 'base64' ? Buffer.from(text, 'base64').toString() : text,
    )
    stderr.write(`${head}\n${output.join('').replace(/^(?=.)/gm, '  ')}`)
  }
}
