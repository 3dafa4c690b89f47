import { BrambleError } from '@bramble/protocol'
import type { NetworkNode, ReputationEntry } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { clientOf, requireNode } from '../connection.ts'
import { dataDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { nodeLines } from '../network/node-view.ts'
import { shortId } from '../network/short-id.ts'
import { addShowOptions, type ShowOptions, show } from '../network/show.ts'
import { interrupt } from '../node/interrupt.ts'
import { readNodeConfig } from '../node/node-config.ts'
import { runningNode } from '../node/node-file.ts'
import { addNodeOptions, type NodeOptions } from '../node/node-options.ts'
import { setUp } from '../setup/show-setup.ts'
import { hasColor, paint } from '../terminal.ts'
import { addJoinOptions, type JoinConfig, type JoinOptions, readJoinConfig } from '../worker/join-config.ts'
import type { WorkerReady } from '../worker/serve-worker.ts'

type JoinCommandOptions = JoinOptions & NodeOptions

export default {
  name: 'worker',
  summary: 'Make this host a node of a network: it runs jobs, and signs what came out',
  configure(command) {
    addJoinOptions(addNodeOptions(command.command('join').description('run a node that works for a network')))
      .option('--json', 'JSON, which is also what a pipe gets: one line when it has joined, then its log', false)
      .argument('<url>', 'of a coordinator, or of what stands before several')
      .addHelpText(
        'after',
        '\nThe key that names the node is made at its first start, in `node.key` of the data directory. SIGTERM and Ctrl-C drain:\nwhat runs may end first; a second one ends at once.\n\nExamples:\n  BRAMBLE_JOIN_TOKEN=inv_… bramble worker join https://network.example\n  bramble worker join http://127.0.0.1:8090 --owner me --key $ADMIN_KEY --slots 4 --label disk=ssd',
      )
      .action(join)
    statusOptions(command.command('status').description('how the network sees the node of this host, and why')).action(
      status,
    )
  },
} satisfies CliCommand

const statusOptions = (command: Command): Command =>
  addShowOptions(command.option('--data-dir <path>', 'where the node keeps its data (BRAMBLE_DATA_DIR)'))

const join = async (url: string, options: JoinCommandOptions): Promise<void> => {
  const config = readNodeConfig({ ...options, noIsolation: !options.isolation }, dataDirectory())
  using interrupted = interrupt()
  const { signal } = interrupted
  const running = runningNode(config.dataDirectory)
  if (running !== undefined)
    throw new ExitError(
      EXIT.failure,
      `a node runs on ${config.dataDirectory} already (pid ${running.pid})`,
      '`bramble down` stops it; `--data-dir` is another one.',
    )
  const settled = await withOwner(readJoinConfig(url, options), options, signal)
  if (options.setup) await setUp(config.dataDirectory, signal)
  const { serveWorker } = await import('../worker/serve-worker.ts')
  const { eventLine, executions } = await import('../worker/event-lines.ts')
  const plain = options.json || !process.stdout.isTTY
  await serveWorker({
    ...{ config, join: settled, logTo: plain ? 'stdout' : 'file', signal },
    onReady: (ready) => console.log(plain ? JSON.stringify(ready) : describe(ready)),
    onEvent: (event) => {
      const line = plain ? undefined : eventLine(event, hasColor(process.stdout))
      if (line !== undefined) console.log(line)
    },
    onDrain: (held) => {
      if (plain) return
      const what = held === 0 ? 'nothing runs' : `${executions(held)} may end first; Ctrl-C again ends at once`
      console.log(`${paint('yellow', 'drains  ', hasColor(process.stdout))}  ${what}`)
    },
  }).catch(explainInvites)
}

/** A network refuses a node for one reason: that it has no invite. */
const explainInvites = (error: unknown): never => {
  if (!(error instanceof BrambleError) || error.code !== 'forbidden') throw error
  const hint =
    '`bramble nodes invite --owner <name>`, at the network, prints a token; --token, BRAMBLE_JOIN_TOKEN or a file take it.'
  throw new ExitError(EXIT.failure, error.detail, hint)
}

/** Who has the network's admin key needs no invite: one is made for this node. */
const withOwner = async (config: JoinConfig, { owner, key }: JoinOptions, signal: AbortSignal): Promise<JoinConfig> => {
  if (owner === undefined || config.token !== undefined) return config
  const address = requireNode({ url: config.url, ...(key !== undefined && { key }) }, 'network')
  const admin = await clientOf(address)
  const { token } = await admin.network.invite({ owner, maxNodes: 1 }, { signal })
  return { ...config, token }
}

const describe = (ready: WorkerReady): string => {
  const color = hasColor(process.stdout)
  const row = (name: string, value: string): string => `  ${paint('dim', name.padEnd(9), color)} ${value}`
  return [
    '',
    paint('bold', `Node ${shortId(ready.node)} works for ${ready.url}`, color),
    '',
    row('node', ready.node),
    row('network', ready.network),
    row('has', `${ready.cpus} cpus, ${ready.memoryMb} MiB, ${ready.slots} slots, ${ready.speed} of \`true\` a second`),
    row('gateway', ready.gatewayUrl),
    row('data', ready.dataDirectory),
    ...(ready.logFile === undefined ? [] : [row('log', ready.logFile)]),
    '',
    'Ctrl-C drains it and leaves.',
    '',
  ].join('\n')
}

interface StatusOptions extends ShowOptions {
  readonly dataDir?: string
}

interface Standing {
  readonly node: NetworkNode
  readonly reputation: ReputationEntry[]
}

/** Asks as the node itself: its owner needs no key of the network. */
const status = async (options: StatusOptions): Promise<void> => {
  const { workerStanding } = await import('../worker/standing.ts')
  const directory = options.dataDir ?? dataDirectory()
  await show(
    options,
    (signal): Promise<Standing> => workerStanding(directory, signal),
    ({ node, reputation }, view) => nodeLines(node, reputation, view),
  )
}
