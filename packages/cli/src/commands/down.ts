import { resolve } from 'node:path'
import type { CliCommand } from '../command.ts'
import { dataDirectory as defaultDataDirectory, networkDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { runningNode } from '../node/node-file.ts'
import { stopProcess } from '../node/stop-process.ts'
import { parseDuration } from '../parse-value.ts'

const TIMEOUT_MS = 30_000

interface DownOptions {
  readonly dataDir?: string
  readonly timeout?: number
  readonly stopInstances?: boolean
  readonly json?: boolean
}

export default {
  name: 'down',
  summary: 'Stop the node that runs on this host',
  configure(command) {
    command
      .option('--data-dir <path>', 'where the node keeps its data')
      .option('--timeout <time>', 'how long to wait for it to finish what it runs (default: 30s)', parseDuration)
      .option('--stop-instances', 'stop its instances too; their files are kept')
      .option('--json', 'answer in JSON')
      .addHelpText('after', '\nInstances go on without a node, until the next one takes them over.')
      .action(down)
  },
} satisfies CliCommand

const down = async (options: DownOptions): Promise<void> => {
  const directory = options.dataDir === undefined ? defaultDataDirectory() : resolve(options.dataDir)
  const node = runningNode(directory)
  const what = node !== undefined && runningNode(networkDirectory(directory))?.pid === node.pid ? 'network' : 'node'
  if (node !== undefined && !(await stopProcess(node, options.timeout ?? TIMEOUT_MS)))
    throw new ExitError(
      EXIT.failure,
      `the ${what} (pid ${node.pid}) still finishes what it runs`,
      'Wait for it, allow more with --timeout, or end it with `kill -9`: the next start cleans up.',
    )
  const { adviceOnLeft, countLeftInstances, stopLeftInstances } = await import('../node/left-instances.ts')
  const stopped = options.stopInstances === true ? await stopLeftInstances(directory) : 0
  const left = await countLeftInstances(directory)
  if (options.json === true) {
    const instances = { stopped, left }
    console.log(JSON.stringify({ stopped: node !== undefined, ...(node && { pid: node.pid }), instances }))
    return
  }
  console.log(node ? `stopped the ${what} at ${node.url}` : `no node runs on ${directory}`)
  if (options.stopInstances === true) console.log(`stopped ${stopped === 1 ? '1 instance' : `${stopped} instances`}`)
  if (left > 0) console.log(adviceOnLeft(left))
}
