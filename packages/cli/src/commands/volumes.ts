import type { CacheName, Volume } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { formatAge, formatBytes } from '../format.ts'
import { collectLabels, parseMegabytes } from '../parse-value.ts'
import { type Column, printList } from '../terminal.ts'

interface ListOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface CreateOptions extends ListOptions {
  readonly size?: number
  readonly label?: Record<string, string>
}

const COLUMNS: Column<Volume>[] = [
  { title: 'NAME', text: (volume) => volume.name },
  { title: 'KIND', text: (volume) => volume.kind },
  { title: 'USED', text: (volume) => formatBytes(volume.usedBytes), right: true },
  { title: 'SIZE', text: (volume) => `${volume.sizeMb} MiB`, right: true },
  { title: 'CREATED', text: (volume) => formatAge(volume.createdAt) },
  { title: 'USED BY', text: (volume) => volume.usedBy.join(', ') || '-' },
]

const list = async (options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  printList(await bramble.volumes.list().all(), COLUMNS, { json: options.json === true, empty: 'no volumes' })
}

const create = async (name: string, options: CreateOptions): Promise<void> => {
  const bramble = await connect(options)
  const volume = await bramble.volumes.create({ name, sizeMb: options.size, labels: options.label })
  if (options.json === true) console.log(JSON.stringify(volume, null, 2))
  else console.log(volume.name)
}

const remove = async (names: string[], options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const name of names) {
    await bramble.volumes.delete(name)
    console.log(name)
  }
}

const clear = async (caches: string[], options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const cache of caches) {
    await bramble.volumes.clearCache(cache as CacheName)
    console.log(cache)
  }
}

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'volumes',
  summary: 'List, create and remove volumes',
  configure(command) {
    common(command.command('ls', { isDefault: true }).description('list the volumes and dependency caches')).action(
      list,
    )
    common(command.command('create').description('make a volume'))
      .argument('<name>', 'to mount it by: `bramble start --volume <name>:/path`')
      .option('--size <size>', 'what fits: 512 (MiB), 512m, 2g (default: 1g)', parseMegabytes)
      .option('-l, --label <name=value>', 'a label; may be given many times', collectLabels)
      .action(create)
    common(command.command('rm').description('remove volumes, with everything in them'))
      .argument('<name...>', 'as `bramble volumes` shows it')
      .action(remove)
    common(command.command('clear').description('forget what dependency caches hold'))
      .argument('<cache...>', 'npm, pip, cargo, go or apt')
      .action(clear)
  },
} satisfies CliCommand
