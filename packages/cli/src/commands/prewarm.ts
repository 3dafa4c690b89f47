import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { interrupt } from '../node/interrupt.ts'
import { parseInteger, parseMegabytes, parseNumber } from '../parse-value.ts'
import { poolColumns } from '../pool-columns.ts'
import { printList } from '../terminal.ts'

interface PrewarmOptions extends ConnectionOptions {
  readonly cpus?: number
  readonly memory?: number
  readonly runtime?: 'auto' | 'oci' | 'docker' | 'microvm'
  readonly json?: boolean
}

export default {
  name: 'prewarm',
  summary: 'Keep sandboxes ready',
  configure(command) {
    command
      .argument('<image>', 'the image, by name or digest')
      .argument('<count>', 'the least number of sandboxes that stand ready; 0 leaves it to the demand', parseInteger)
      .option('--cpus <number>', 'of each sandbox', parseNumber)
      .option('--memory <size>', 'of each sandbox: 512 (MiB), 512m, 2g', parseMegabytes)
      .option('--runtime <name>', 'auto (default), oci, docker')
      .option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command).action(async (image: string, count: number, options: PrewarmOptions) => {
      using interrupted = interrupt()
      const bramble = await connect(options)
      const { cpus, memory, runtime } = options
      const resources = { ...(cpus !== undefined && { cpus }), ...(memory !== undefined && { memoryMb: memory }) }
      const pool = await bramble.prewarm({ image, count, runtime, resources }, { signal: interrupted.signal })
      printList([pool], poolColumns, { json: options.json === true, empty: '' })
    })
  },
} satisfies CliCommand
