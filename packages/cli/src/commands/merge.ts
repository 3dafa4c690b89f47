import type { MergeResponse, MergeStrategy } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { defined } from '../defined.ts'
import { formatMs } from '../format.ts'
import { interrupt } from '../node/interrupt.ts'
import { collectLabels } from '../parse-value.ts'
import { conflictText } from '../snapshots/conflict-view.ts'
import { shortId } from '../snapshots/snapshot-columns.ts'
import { orNoState, stateRef } from '../snapshots/state-ref.ts'
import { waitingLine } from '../snapshots/waiting-line.ts'
import { hasColor, paint, safeLine } from '../terminal.ts'

interface MergeOptions extends ConnectionOptions {
  readonly strategy?: string
  readonly base?: string
  readonly name?: string
  readonly label?: Record<string, string>
  readonly json?: boolean
}

/** As git-merge(1) says it. */
const CONFLICTS = 1

export default {
  name: 'merge',
  summary: 'Fold the files of branches into one snapshot',
  configure(command) {
    command
      .argument('<branch...>', 'instances, snapshots or executions; the first is "ours"')
      .option('--strategy <name>', 'of what they do not agree on: fail (default), ours, theirs, union')
      .option('--base <state>', 'what they began from (default: found by their parents)')
      .option('--name <name>', 'of the snapshot')
      .option('-l, --label <name=value>', 'a label of the snapshot; may be given many times', collectLabels)
      .option('--json', 'print the answer as JSON')
    addConnectionOptions(command)
      .addHelpText(
        'after',
        '\nThe id of the snapshot, alone, goes to standard output. The exit code is 1 where the branches do not agree, and nothing was made.\n\nExample:\n  bramble merge left right --strategy union --name merged && bramble snapshot restore merged --name box2',
      )
      .action(merge)
  },
} satisfies CliCommand

const merge = async (refs: string[], options: MergeOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const branches = await Promise.all(refs.map((ref) => stateRef(bramble, ref, signal)))
  const { name, label: labels, strategy } = options
  const base = options.base === undefined ? undefined : await stateRef(bramble, options.base, signal)
  // The node parses what the strategy is, and names those that there are.
  const wish = defined({ name, labels, base, strategy: strategy as MergeStrategy | undefined })
  using line = waitingLine(`merge of ${refs.join(', ')}`)
  const began = performance.now()
  const outcome = await orNoState(bramble.merge({ branches, ...wish, check: false, signal }))
  line[Symbol.dispose]()
  if (options.json === true) console.log(JSON.stringify(outcome, null, 2))
  else show(outcome, refs, performance.now() - began)
  if (outcome.snapshot === undefined) process.exitCode = CONFLICTS
}

const baseText = (base: string): string => {
  if (base.startsWith('ins_')) return `${base} as they began from it`
  if (base.startsWith('sha256:')) return 'their image'
  return shortId(base) === base ? 'what they began from' : `the snapshot ${shortId(base)}`
}

const show = (
  { snapshot, base, conflicts, truncated, totals }: MergeResponse,
  refs: readonly string[],
  took: number,
) => {
  const { stderr } = process
  const color = hasColor(stderr)
  const say = (text: string): void => void stderr.write(`${text}\n`)
  if (conflicts.length > 0) say(conflictText(conflicts, { color, width: stderr.isTTY ? stderr.columns : undefined }))
  if (truncated) say(paint('dim', `… ${totals.conflicts} in all`, color))
  const merged = `${totals.taken} taken from one branch, ${totals.merged} merged by lines, against ${baseText(base)}`
  if (snapshot) {
    const settled = totals.conflicts === 0 ? '' : `, ${totals.conflicts} settled`
    say(`${merged}${settled}, in ${formatMs(took)}`)
    say(
      paint(
        'dim',
        `\`bramble snapshot restore ${snapshot.name ?? shortId(snapshot.id)}\` starts an instance of it.`,
        color,
      ),
    )
    console.log(snapshot.id)
    return
  }
  const count = `${totals.conflicts} conflict${totals.conflicts === 1 ? '' : 's'}`
  say(`${paint('red', `${count}, so nothing was made`, color)} (${merged}).`)
  const [ours = '', theirs = ''] = refs.map(shortId)
  say(
    safeLine(
      `Next: --strategy ours takes ${ours}, theirs ${refs.length === 2 ? theirs : 'the last'}, union both where that works; or change a branch and merge again.`,
    ),
  )
}
