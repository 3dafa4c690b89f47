import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatBytes } from '../format.ts'

interface StatsOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface ClearOptions extends StatsOptions {
  readonly hash?: string
  readonly image?: string
  readonly label?: string
}

const stats = async ({ json, ...options }: StatsOptions): Promise<void> => {
  const found = await (await connect(options)).cache.stats()
  if (json === true || !process.stdout.isTTY) {
    console.log(JSON.stringify(found, null, 2))
    return
  }
  const { entries, sizeBytes, hits, misses, sharedHits, joined } = found
  const asked = hits + misses + joined
  const share = asked === 0 ? '' : ` (${Math.round((100 * hits) / asked)} %)`
  console.log(`kept     ${entries} results, ${formatBytes(sizeBytes)}`)
  console.log(
    `answered ${hits} of ${asked}${share}${sharedHits === 0 ? '' : `, ${sharedHits} by what other nodes ran`}`,
  )
  console.log(`joined   ${joined} waited for an equal one that ran`)
}

const clear = async ({ hash: key, image, label, json, ...options }: ClearOptions): Promise<void> => {
  const forgotten = await (await connect(options)).cache.clear({ key, image, label })
  if (json === true || !process.stdout.isTTY) console.log(JSON.stringify({ forgotten }, null, 2))
  else console.log(`forgot ${forgotten} results`)
}

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'cache',
  summary: 'Show what the cache of results holds and answered, or forget it',
  configure(command) {
    common(command.command('stats', { isDefault: true }).description('what is kept, and how often it answered')).action(
      stats,
    )
    common(command.command('clear').description('forget results: all of the tenant, or those that fit all of these'))
      .option('--hash <hash>', 'the input hash of a result')
      .option('--image <name>', 'of this image, by name or digest')
      .option('-l, --label <name[=value]>', 'with this label')
      .action(clear)
  },
} satisfies CliCommand
