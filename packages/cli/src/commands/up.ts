import { BrambleError } from '@bramble/protocol'
import type { CliCommand } from '../command.ts'
import { dataDirectory, networkDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { describeNetwork, type NetworkSummary } from '../local-network/network-summary.ts'
import { startInBackground, tellStarter } from '../node/detach.ts'
import { interrupt } from '../node/interrupt.ts'
import { logFileOf } from '../node/log-file.ts'
import { type NodeConfig, readNodeConfig } from '../node/node-config.ts'
import { runningNode } from '../node/node-file.ts'
import { addNodeOptions, type NodeOptions } from '../node/node-options.ts'
import type { ServeOptions } from '../node/serve.ts'
import { describeSummary, type Summary } from '../node/summary.ts'
import { parseInteger } from '../parse-value.ts'
import { setUp } from '../setup/show-setup.ts'
import { hasColor } from '../terminal.ts'

/** Each is a whole node, with pools and a store of its own. */
const MAX_NODES = 16

interface UpOptions extends NodeOptions {
  readonly detach: boolean
  readonly background: boolean
  readonly nodes?: number
}

export default {
  name: 'up',
  summary: 'Set this host up, start the node, run a first command',
  configure(command) {
    addNodeOptions(command)
      .option('--nodes <number>', 'a whole network instead: a coordinator, and so many nodes', parseInteger)
      .option('-d, --detach', 'leave the node running in the background; `bramble down` stops it', false)
      .option('--json', 'JSON, which is also what a pipe gets: one line when the node is up, then its log', false)
      .addOption(command.createOption('--background').default(false).hideHelp())
      .action(up)
  },
} satisfies CliCommand

const up = async (options: UpOptions): Promise<void> => {
  const config = readNodeConfig({ ...options, noIsolation: !options.isolation }, dataDirectory())
  if (options.background) return background(config, options)
  using interrupted = interrupt()
  const { signal } = interrupted
  const running = runningNode(config.dataDirectory)
  if (running !== undefined) {
    const isNetwork = runningNode(networkDirectory(config.dataDirectory))?.pid === running.pid
    const what = isNetwork ? 'a network' : 'a node'
    if (isNetwork !== (options.nodes !== undefined))
      throw new ExitError(
        EXIT.failure,
        `${what} runs already at ${running.url} (pid ${running.pid})`,
        '`bramble down` stops it; `--data-dir` is another place.',
      )
    if (isPlain(options)) console.log(JSON.stringify({ type: 'running', url: running.url, pid: running.pid }))
    else console.log(`${what} runs already at ${running.url} (pid ${running.pid}); \`bramble down\` stops it`)
    return
  }
  if (options.setup) await setUp(config.dataDirectory, signal)
  if (config.noIsolation)
    process.stderr.write('WARNING: --no-isolation: commands run as plain processes of this host, with your rights.\n')
  if (options.detach) return detach(config, options, signal)
  const plain = isPlain(options)
  await serveWhat({ config, logTo: plain ? 'stdout' : 'file', signal }, options, (summary) => {
    show(summary, options)
    if (!plain) console.log(`Ctrl-C stops the ${'nodes' in summary ? 'network' : 'node'}.`)
  })
  const { adviceOnLeft, countLeftInstances } = await import('../node/left-instances.ts')
  const left = await countLeftInstances(config.dataDirectory)
  if (left > 0) process.stderr.write(`${adviceOnLeft(left)}\n`)
}

const serveWhat = async (
  how: Omit<ServeOptions, 'onReady'>,
  { nodes }: UpOptions,
  onReady: (summary: Summary | NetworkSummary) => void,
): Promise<void> => {
  if (nodes === undefined) {
    const { serve } = await import('../node/serve.ts')
    return await serve({ ...how, onReady })
  }
  if (nodes < 1 || nodes > MAX_NODES)
    throw new ExitError(EXIT.failure, `--nodes ${nodes}: one process has 1 to ${MAX_NODES}`)
  const { serveNetwork } = await import('../local-network/serve-network.ts')
  await serveNetwork({ ...how, nodes, onReady })
}

const isPlain = (options: UpOptions): boolean => options.json || !process.stdout.isTTY

/** As everywhere: for a person on a terminal, one line of JSON in a pipe or with `--json`; never both. */
const show = (summary: Summary | NetworkSummary, options: UpOptions): void => {
  const color = hasColor(process.stdout)
  const described = 'nodes' in summary ? describeNetwork(summary, color) : describeSummary(summary, color)
  console.log(isPlain(options) ? JSON.stringify(summary) : described)
}

const detach = async (config: NodeConfig, options: UpOptions, signal: AbortSignal): Promise<void> => {
  const args = ['up', '--background', '--no-setup', '--data-dir', config.dataDirectory, '--host', config.host]
  args.push('--port', String(config.port), '--runtime', config.runtime, '--log-level', config.logLevel)
  args.push('--domain', config.domain)
  if (config.sshPort !== undefined) args.push('--ssh-port', String(config.sshPort))
  if (config.noIsolation) args.push('--no-isolation')
  if (options.nodes !== undefined) args.push('--nodes', String(options.nodes))
  const said = await startInBackground(args, config.dataDirectory, signal)
  if (said.type === 'failed') throw new ExitError(EXIT.failure, said.message, said.hint)
  show({ ...said, logFile: logFileOf(config.dataDirectory) }, options)
}

const background = async (config: NodeConfig, options: UpOptions): Promise<void> => {
  using interrupted = interrupt()
  try {
    await serveWhat({ config, logTo: 'stdout', signal: interrupted.signal }, options, tellStarter)
  } catch (error) {
    tellStarter({ type: 'failed', ...messageAndHint(error) })
    throw error
  }
}

const messageAndHint = (error: unknown): { message: string; hint: string | undefined } => ({
  message: error instanceof Error ? error.message : String(error),
  hint: error instanceof BrambleError || error instanceof ExitError ? error.hint : undefined,
})
