import type { Bramble } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { type Family, treeText } from '../snapshots/branch-tree.ts'
import { STATES_HINT, stateRef } from '../snapshots/state-ref.ts'
import { hasColor } from '../terminal.ts'

interface BranchesOptions extends ConnectionOptions {
  readonly all?: boolean
  readonly json?: boolean
}

export default {
  name: 'branches',
  summary: 'Show what came from what: instances, their snapshots and branches, as a tree',
  configure(command) {
    command
      .argument('[parent]', 'only what descends from this instance or snapshot')
      .option('-a, --all', 'also branches that were deleted')
      .option('--json', 'the branches as JSON, which is also what a pipe gets')
    addConnectionOptions(command)
      .addHelpText('after', '\n● an instance, ○ one that is gone, ◆ a snapshot.')
      .action(show)
  },
} satisfies CliCommand

const PAGE = 500
const STATS_AT_ONCE = 8

const show = async (ref: string | undefined, options: BranchesOptions): Promise<void> => {
  const bramble = await connect(options)
  const parent = ref === undefined ? undefined : await idOf(bramble, await stateRef(bramble, ref))
  const branches = await bramble.branches.list({ parent, limit: PAGE }).all()
  const { stdout } = process
  if (options.json === true || !stdout.isTTY) {
    const left = options.all === true ? branches : branches.filter(({ instance }) => instance !== undefined)
    console.log(JSON.stringify(left, null, 2))
    return
  }
  const [found, snapshots] = await Promise.all([
    bramble.instances.list({ limit: PAGE }).all(),
    bramble.snapshots.list({ limit: PAGE }).all(),
  ])
  const family: Family = {
    branches,
    instances: found.map(({ info }) => info),
    snapshots,
    diskBytes: await sizesOf(found.filter(({ status }) => status === 'running')),
  }
  if (parent !== undefined && !isKnown(parent, family))
    throw new ExitError(EXIT.failure, `nothing is known of ${JSON.stringify(ref)}`, STATES_HINT)
  const tree = treeText(family, { color: hasColor(stdout), root: parent, all: options.all === true })
  console.log(tree === '' ? 'no branches; `bramble branch <instance>` makes one' : tree)
}

const isKnown = (id: string, { branches, instances, snapshots }: Family): boolean =>
  branches.length > 0 ||
  instances.some((instance) => instance.id === id) ||
  snapshots.some((snapshot) => snapshot.id === id || snapshot.source === id || snapshot.parent === id)

/** The node's own id for what a person called it, by which branches name it. */
const idOf = async (bramble: Bramble, ref: string): Promise<string> => {
  const isMissing = (error: unknown): undefined => {
    const { code } = error as { code?: unknown }
    if (code !== 'not_found' && code !== 'invalid_request') throw error
    return undefined
  }
  const found =
    (await bramble.instances.get(ref).catch(isMissing)) ?? (await bramble.snapshots.get(ref).catch(isMissing))
  // What is not there any more still has descendants.
  return found?.id ?? ref
}

/** Asked of a few at a time; one that ends meanwhile has none. */
const sizesOf = async (running: readonly Awaited<ReturnType<Bramble['instances']['get']>>[]) => {
  const sizes = new Map<string, number>()
  const left = [...running]
  const ask = async (): Promise<void> => {
    for (let next = left.pop(); next !== undefined; next = left.pop()) {
      const stats = await next.stats().catch(() => undefined)
      if (stats !== undefined) sizes.set(next.id, stats.diskBytes)
    }
  }
  await Promise.all(Array.from({ length: STATS_AT_ONCE }, ask))
  return sizes
}
