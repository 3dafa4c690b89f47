import type { NetworkNode } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connectNetwork, requireNode } from '../connection.ts'
import { defined } from '../defined.ts'
import { findNetworkNode } from '../network/find-node.ts'
import { ofNetwork } from '../network/network-call.ts'
import { NODE_COLUMNS } from '../network/node-columns.ts'
import { nodeLines } from '../network/node-view.ts'
import { addShowOptions, type ShowOptions, show } from '../network/show.ts'
import { collectLabels, parseDuration, parseInteger } from '../parse-value.ts'
import { formatTable } from '../terminal.ts'

interface ListOptions extends ConnectionOptions, ShowOptions {
  readonly limit: number
  readonly status?: string
  readonly label?: string
}

interface InviteOptions extends ConnectionOptions {
  readonly owner: string
  readonly label?: Record<string, string>
  readonly anchor?: boolean
  readonly ttl?: number
  readonly maxNodes?: number
  readonly json?: boolean
}

const MAX_PAGE = 500
const RECORD_ENTRIES = 20

const list = async (options: ListOptions): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { limit, label } = options
  const status = options.status as NetworkNode['status'] | undefined
  const look = async (signal: AbortSignal): Promise<NetworkNode[]> => {
    const nodes: NetworkNode[] = []
    if (limit > 0)
      for await (const node of bramble.network.nodes({ status, label, limit: Math.min(limit, MAX_PAGE), signal }))
        if (nodes.push(node) >= limit) break
    return nodes
  }
  await show(
    options,
    (signal) => ofNetwork(look(signal)),
    (nodes, view) => (nodes.length === 0 ? ['no nodes'] : formatTable(NODE_COLUMNS, nodes, view).split('\n')),
  )
}

const showNode = async (ref: string, options: ConnectionOptions & ShowOptions): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { id } = await findNetworkNode(bramble, ref)
  const look = async (signal: AbortSignal) => {
    const pages = bramble.network.reputation(id, { limit: RECORD_ENTRIES, signal }).pages()[Symbol.asyncIterator]()
    const [node, page] = await Promise.all([bramble.network.node(id, { signal }), pages.next()])
    return { node, reputation: page.done ? [] : page.value.items }
  }
  await show(options, look, ({ node, reputation }, view) => nodeLines(node, reputation, view))
}

const change =
  (verb: 'drain' | 'resume') =>
  async (refs: string[], options: ConnectionOptions): Promise<void> => {
    const bramble = await connectNetwork(options)
    for (const ref of refs) {
      const { id } = await findNetworkNode(bramble, ref)
      const { status } = await bramble.network[verb](id)
      console.log(`${id} ${status}`)
    }
  }

const suspend = async (ref: string, options: ConnectionOptions & { message: string }): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { id } = await findNetworkNode(bramble, ref)
  const { status } = await bramble.network.suspend(id, options.message)
  console.log(`${id} ${status}`)
}

const invite = async (options: InviteOptions): Promise<void> => {
  const bramble = await connectNetwork(options)
  const { owner, label, anchor, ttl, maxNodes } = options
  const made = await ofNetwork(
    bramble.network.invite({ owner, ...defined({ labels: label, anchor, ttlMs: ttl, maxNodes }) }),
  )
  if (options.json === true) console.log(JSON.stringify(made, null, 2))
  else {
    // The token alone on standard output, so that `TOKEN=$(bramble nodes invite --owner ada)` works.
    const nodes = made.maxNodes === 1 ? 'one node' : `${made.maxNodes} nodes`
    process.stderr.write(`${nodes} of ${made.owner} may join until ${made.expiresAt}:\n`)
    process.stderr.write(`  bramble worker join ${requireNode(options, 'network').url} --token <token>\n`)
    console.log(made.token)
  }
}

const part = (command: Command, name: string, description: string): Command =>
  addConnectionOptions(command.command(name).description(description), 'coordinator')

export default {
  name: 'nodes',
  summary: 'List the nodes of a network; drain, resume, suspend and invite them',
  configure(command) {
    const listing = command.command('list', { isDefault: true }).description('list the nodes')
    addShowOptions(addConnectionOptions(listing, 'coordinator'))
      .option('-n, --limit <number>', 'how many', parseInteger, 100)
      .option('--status <status>', 'online, suspect, offline, draining, drained, suspended')
      .option('-l, --label <name[=value]>', 'only those with this label')
      .addHelpText(
        'after',
        '\nCORRECT, AVAILABLE: what is sure of it, so they begin low. AGREED: results that others of another owner confirmed;\n● is established. A narrow terminal shows fewer columns; `bramble nodes show <node>` has all.',
      )
      .action(list)
    addShowOptions(part(command, 'show', 'show a node, and the record that its reputation comes from'))
      .argument('<node>', 'its id, the beginning of it, or its name')
      .action(showNode)
    part(command, 'drain', 'place nothing new on nodes; what runs goes on')
      .argument('<node...>')
      .action(change('drain'))
    part(command, 'resume', 'place work on nodes again').argument('<node...>').action(change('resume'))
    part(command, 'suspend', 'take a node out of the network, as a conviction does')
      .argument('<node>')
      .requiredOption('-m, --message <text>', 'why; its owner reads it')
      .action(suspend)
    part(command, 'invite', 'make a token with which nodes join')
      .requiredOption('--owner <name>', 'whose nodes these are: no two executions of a job run at one owner')
      .option('-l, --label <name=value>', 'a label that these nodes have; may be given many times', collectLabels)
      .option('--anchor', 'they are established from the start: nodes of whoever runs the network')
      .option('--ttl <time>', 'how long the token is good: 1h, 7d (default: 1d)', parseDuration)
      .option('--max-nodes <number>', 'how many nodes may join with it (default: 1)', parseInteger)
      .option('--json', 'JSON')
      .action(invite)
  },
} satisfies CliCommand
