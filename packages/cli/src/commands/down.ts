import { resolve } from 'node:path'
import type { CliCommand } from '../command.ts'
import { dataDirectory as defaultDataDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { runningNode } from '../node/node-file.ts'
import { stopProcess } from '../node/stop-process.ts'

export default {
  name: 'down',
  summary: 'Stop the node that runs on this host',
  configure(command) {
    command
      .option('--data-dir <path>', 'where the node keeps its data')
      .option('--timeout <seconds>', 'how long to wait for it to finish what it runs', '30')
      .option('--json', 'answer in JSON', false)
      .action(async (options: { dataDir?: string; timeout: string; json: boolean }) => {
        const directory = options.dataDir === undefined ? defaultDataDirectory() : resolve(options.dataDir)
        const node = runningNode(directory)
        if (node !== undefined && !(await stopProcess(node, Number(options.timeout) * 1000)))
          throw new ExitError(
            EXIT.failure,
            `the node (pid ${node.pid}) still finishes what it runs`,
            'Wait for it, allow more with --timeout, or end it with `kill -9`: the next start cleans up.',
          )
        if (options.json) console.log(JSON.stringify({ stopped: node !== undefined, ...(node && { pid: node.pid }) }))
        else console.log(node ? `stopped the node at ${node.url}` : `no node runs on ${directory}`)
      })
  },
} satisfies CliCommand
