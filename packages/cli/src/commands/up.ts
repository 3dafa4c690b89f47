import { BrambleError } from '@bramble/protocol'
import type { CliCommand } from '../command.ts'
import { dataDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { startInBackground, tellStarter } from '../node/detach.ts'
import { interrupt } from '../node/interrupt.ts'
import { logFileOf } from '../node/log-file.ts'
import { type NodeConfig, readNodeConfig } from '../node/node-config.ts'
import { runningNode } from '../node/node-file.ts'
import { describeSummary, type Summary } from '../node/summary.ts'
import { showSetup } from '../setup/show-setup.ts'
import { hasColor } from '../terminal.ts'

interface UpOptions {
  port?: string
  host?: string
  sshPort?: string
  domain?: string
  dataDir?: string
  runtime?: string
  logLevel?: string
  objectStore?: string
  storeMaxGb?: string
  isolation: boolean
  setup: boolean
  detach: boolean
  background: boolean
  json: boolean
}

export default {
  name: 'up',
  summary: 'Set this host up, start the node, run a first command',
  configure(command) {
    command
      .option('-p, --port <number>', 'port to listen on; 0 takes a free one (default 8080, BRAMBLE_PORT)')
      .option('--host <address>', 'address to listen on (default 127.0.0.1, BRAMBLE_HOST)')
      .option('--ssh-port <number>', 'port of SSH; 0 takes a free one, `off` is none (default 2222, BRAMBLE_SSH_PORT)')
      .option('--domain <name>', '<port>-<instance>.<name> leads to a port (default localhost, BRAMBLE_DOMAIN)')
      .option('--runtime <name>', 'auto, oci or docker (default auto, BRAMBLE_RUNTIME)')
      .option('--data-dir <path>', 'where the node keeps its data (BRAMBLE_DATA_DIR)')
      .option('--log-level <level>', 'debug, info, warn, error or silent (default info, BRAMBLE_LOG_LEVEL)')
      .option('--object-store <url>', 's3://bucket/prefix?endpoint=…: blobs are there too (BRAMBLE_OBJECT_STORE_URL)')
      .option('--store-max-gb <number>', 'what blobs may take on this host (BRAMBLE_STORE_MAX_GB)')
      .option('-d, --detach', 'leave the node running in the background; `bramble down` stops it', false)
      .option('--no-isolation', 'run commands as plain processes of this host: for your own code only')
      .option('--no-setup', 'take the host as it is')
      .option('--json', 'JSON, which is also what a pipe gets: one line when the node is up, then its log', false)
      .addOption(command.createOption('--background').default(false).hideHelp())
      .action(up)
  },
} satisfies CliCommand

const up = async (options: UpOptions): Promise<void> => {
  const config = readNodeConfig({ ...options, noIsolation: !options.isolation }, dataDirectory())
  if (options.background) return background(config)
  using interrupted = interrupt()
  const { signal } = interrupted
  const running = runningNode(config.dataDirectory)
  if (running !== undefined) {
    if (isPlain(options)) console.log(JSON.stringify({ type: 'running', url: running.url, pid: running.pid }))
    else console.log(`a node runs already at ${running.url} (pid ${running.pid}); \`bramble down\` stops it`)
    return
  }
  if (options.setup) await setUp(config, signal)
  if (config.noIsolation)
    process.stderr.write('WARNING: --no-isolation: commands run as plain processes of this host, with your rights.\n')
  if (options.detach) return detach(config, options, signal)
  const plain = isPlain(options)
  const { serve } = await import('../node/serve.ts')
  const onReady = (summary: Summary): void => {
    show(summary, options)
    if (!plain) console.log('Ctrl-C stops the node.')
  }
  await serve({ config, logTo: plain ? 'stdout' : 'file', signal, onReady })
  const { adviceOnLeft, countLeftInstances } = await import('../node/left-instances.ts')
  const left = await countLeftInstances(config.dataDirectory)
  if (left > 0) process.stderr.write(`${adviceOnLeft(left)}\n`)
}

/** What is blocked or fails is shown; whether the node can do without it, its start says. */
const setUp = async (config: NodeConfig, signal: AbortSignal): Promise<void> => {
  const stream = process.stderr
  const shown = { test: false, dryRun: false, quiet: true, stream, signal }
  await showSetup({ ...shown, dataDirectory: config.dataDirectory })
}

const isPlain = (options: UpOptions): boolean => options.json || !process.stdout.isTTY

/** As everywhere: for a person on a terminal, one line of JSON in a pipe or with `--json`; never both. */
const show = (summary: Summary, options: UpOptions): void =>
  console.log(isPlain(options) ? JSON.stringify(summary) : describeSummary(summary, hasColor(process.stdout)))

const detach = async (config: NodeConfig, options: UpOptions, signal: AbortSignal): Promise<void> => {
  const args = ['up', '--background', '--no-setup', '--data-dir', config.dataDirectory, '--host', config.host]
  args.push('--port', String(config.port), '--runtime', config.runtime, '--log-level', config.logLevel)
  args.push('--domain', config.domain)
  if (config.sshPort !== undefined) args.push('--ssh-port', String(config.sshPort))
  if (config.noIsolation) args.push('--no-isolation')
  const said = await startInBackground(args, config.dataDirectory, signal)
  if (said.type === 'failed') throw new ExitError(EXIT.failure, said.message, said.hint)
  show({ ...said, logFile: logFileOf(config.dataDirectory) }, options)
}

const background = async (config: NodeConfig): Promise<void> => {
  using interrupted = interrupt()
  try {
    const { serve } = await import('../node/serve.ts')
    await serve({ config, logTo: 'stdout', signal: interrupted.signal, onReady: (summary) => tellStarter(summary) })
  } catch (error) {
    tellStarter({ type: 'failed', ...messageAndHint(error) })
    throw error
  }
}

const messageAndHint = (error: unknown): { message: string; hint: string | undefined } => ({
  message: error instanceof Error ? error.message : String(error),
  hint: error instanceof BrambleError || error instanceof ExitError ? error.hint : undefined,
})
