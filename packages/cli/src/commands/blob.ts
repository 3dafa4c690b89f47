import type { TenantBlob } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { defined } from '../defined.ts'
import { formatBytes, formatMs } from '../format.ts'
import { transferProgress } from '../instances/transfer-progress.ts'
import { interrupt } from '../node/interrupt.ts'
import { openSource } from '../open-source.ts'
import { parseDuration } from '../parse-value.ts'
import { type Column, printList } from '../terminal.ts'

interface ListOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface PutOptions extends ListOptions {
  readonly ttl?: number
  readonly expect?: string
}

const COLUMNS: Column<TenantBlob>[] = [
  { title: 'HASH', text: ({ hash }) => hash },
  { title: 'SIZE', text: ({ sizeBytes }) => formatBytes(sizeBytes), right: true },
  { title: 'ORIGIN', text: ({ origin }) => origin },
  { title: 'EXPIRES', text: ({ expiresAt }) => `in ${formatMs(Math.max(0, Date.parse(expiresAt) - Date.now()))}` },
]

const MAX_PAGE = 500

const list = async ({ json, ...options }: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  printList(await bramble.blobs.list({ limit: MAX_PAGE }).all(), COLUMNS, { json: json === true, empty: 'no blobs' })
}

const put = async (path: string, { ttl: ttlMs, expect, json, ...options }: PutOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connect(options)
  const { source, sizeBytes } = await openSource(path)
  using progress = transferProgress(`put ${path}`, sizeBytes)
  const call = { ...defined({ ttlMs, expect }), signal: interrupted.signal, onBytes: progress.add }
  const blob = await bramble.blobs.put(source, call)
  progress[Symbol.dispose]()
  console.log(json === true ? JSON.stringify(blob, null, 2) : blob.hash)
}

const get = async (hash: string, path: string | undefined, options: ConnectionOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  using progress = transferProgress(`get ${hash.slice(0, 12)}`)
  const body = await bramble.blobs.get(hash, { signal, onBytes: progress.add })
  if (path !== undefined && path !== '-') {
    await (await import('@bramble/sdk/node')).saveStream(body, path)
    progress[Symbol.dispose]()
    console.log(path)
    return
  }
  const output = (await import('../run/output.ts')).processOutput()
  for await (const piece of body) {
    output.readerGone.throwIfAborted()
    await output.write('stdout', piece)
  }
}

const remove = async (hashes: string[], options: ConnectionOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const hash of hashes) {
    await bramble.blobs.remove(hash)
    console.log(hash)
  }
}

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'blob',
  summary: 'Put and get bytes by their SHA-256, for the files of commands and from their outputs',
  configure(command) {
    common(command.command('ls', { isDefault: true }).description('list the blobs of the tenant')).action(list)
    common(command.command('put').description('store a file, and print its hash'))
      .argument('<file>', 'of this host; - is standard input')
      .option('--ttl <time>', 'how long it is kept: 2h, 7d (default: 30 days)', parseDuration)
      .option('--expect <hash>', 'refuse other bytes')
      .action(put)
    addConnectionOptions(command.command('get').description('write a blob to a file'))
      .argument('<hash>', 'its SHA-256')
      .argument('[file]', 'where to (default: standard output)')
      .action(get)
    addConnectionOptions(command.command('rm').description('let go of blobs'))
      .argument('<hash...>', 'their SHA-256')
      .action(remove)
  },
} satisfies CliCommand
