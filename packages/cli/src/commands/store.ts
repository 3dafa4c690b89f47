import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatBytes } from '../format.ts'
import { interrupt } from '../node/interrupt.ts'
import { parseDuration } from '../parse-value.ts'
import { waitingLine } from '../snapshots/waiting-line.ts'
import { collectObjectStore, verifyStore } from '../store/object-store.ts'
import { hasColor, paint, safeLine } from '../terminal.ts'

interface StoreOptions extends ConnectionOptions {
  readonly json?: boolean
}

const status = async (options: StoreOptions): Promise<void> => {
  const stats = await (await connect(options)).store.status()
  const { stdout } = process
  if (options.json === true || !stdout.isTTY) {
    console.log(JSON.stringify(stats, null, 2))
    return
  }
  const color = hasColor(stdout)
  const { blobs, sizeBytes, storedBytes, maxBytes, pendingUploads, pendingBytes, lowerTier } = stats
  const whole = sizeBytes === undefined ? '' : ` of ${formatBytes(sizeBytes)}, compressed`
  const room = maxBytes === null ? '' : `; ${formatBytes(Math.max(0, maxBytes - storedBytes))} left`
  console.log(`blobs      ${blobs}`)
  console.log(`stored     ${formatBytes(storedBytes)}${whole}${room}`)
  if (lowerTier === undefined) {
    console.log('lower tier none')
    return
  }
  const { url, available, reason } = lowerTier
  const state = available ? paint('green', 'answers', color) : paint('red', `does not answer: ${reason ?? ''}`, color)
  console.log(`lower tier ${safeLine(url)}, ${state}`)
  console.log(
    `waiting    ${pendingUploads === 0 ? 'nothing' : `${pendingUploads} blobs, ${formatBytes(pendingBytes)}`}`,
  )
}

interface CollectOptions extends StoreOptions {
  readonly grace?: number
}

const collect = async ({ grace: graceMs, ...options }: CollectOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connect(options)
  using line = waitingLine('collect')
  const removed = await bramble.store.collect({ graceMs, signal: interrupted.signal })
  line[Symbol.dispose]()
  if (options.json === true || !process.stdout.isTTY) console.log(JSON.stringify(removed, null, 2))
  else
    console.log(
      `removed ${removed.blobs} blobs, ${formatBytes(removed.storedBytes)}, and ${removed.seals} states of sandboxes`,
    )
}

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'store',
  summary: 'Show what the store of blobs holds, and remove what nothing needs',
  configure(command) {
    common(
      command.command('status', { isDefault: true }).description('what it holds, and what waits to be uploaded'),
    ).action(status)
    common(command.command('collect').description('remove what nothing needs any more, now'))
      .option('--grace <time>', 'what was put within this time stays (default: 1h; at least 1m)', parseDuration)
      .action(collect)
    command
      .command('verify')
      .description('compare this host with the object store, and heal either from the other; the node does not run')
      .option('--data-dir <path>', 'of the node (BRAMBLE_DATA_DIR)')
      .option('--json', 'answer in JSON', false)
      .action(verifyStore)
    command
      .command('collect-shared')
      .description('remove from the object store what no snapshot, image, cache, result or tenant of any node needs')
      .option('--dry-run', 'count, and remove nothing', false)
      .option('--grace-hours <number>', 'what is younger stays', '24')
      .option('--json', 'answer in JSON', false)
      .action(collectObjectStore)
  },
} satisfies CliCommand
