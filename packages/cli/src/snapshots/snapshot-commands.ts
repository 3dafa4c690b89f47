import { dirname } from 'node:path'
import type { Command } from 'commander'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { defined } from '../defined.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatBytes, formatMs } from '../format.ts'
import { calledOf, findInstance } from '../instances/find-instance.ts'
import { transferProgress } from '../instances/transfer-progress.ts'
import { interrupt } from '../node/interrupt.ts'
import { collectLabels, collectPairs, parseDuration } from '../parse-value.ts'
import { hasColor, printList, safeLine } from '../terminal.ts'
import { diffText } from './diff-view.ts'
import { calledSnapshot, memoryText, SNAPSHOT_COLUMNS } from './snapshot-columns.ts'
import { orNoSnapshot } from './state-ref.ts'
import { waitingLine } from './waiting-line.ts'

interface JsonOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface ListOptions extends JsonOptions {
  readonly name?: string
  readonly of?: string
  readonly label?: string
}

const list = async ({ name, of: source, label, json, ...options }: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  const taken = await bramble.snapshots.list({ name, source, label, limit: MAX_PAGE }).all()
  printList(taken, SNAPSHOT_COLUMNS, {
    json: json === true,
    empty: 'no snapshots; `bramble snapshot <instance>` takes one',
  })
}

const MAX_PAGE = 500

interface TakeOptions extends JsonOptions {
  readonly memory?: boolean
  readonly ttl?: number
  readonly label?: Record<string, string>
}

const take = async (ref: string, name: string | undefined, options: TakeOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const instance = await findInstance(await connect(options), ref, signal)
  const { memory, ttl: ttlMs, label: labels } = options
  using line = waitingLine(`snapshot of ${calledOf(instance)}`)
  const began = performance.now()
  const snapshot = await instance.snapshot({ ...defined({ name, memory, ttlMs, labels }), signal })
  line[Symbol.dispose]()
  if (options.json === true) return print(snapshot)
  const { entries, filesBytes, frozenMs, addedBytes } = snapshot
  const had = snapshot.memory ? `, memory of ${memoryText(snapshot)}` : ', without memory'
  const stood = frozenMs === undefined ? '' : `; it stood still for ${formatMs(frozenMs)}`
  process.stderr.write(
    `${calledOf(instance)}: ${entries} paths, ${formatBytes(filesBytes)}${had}${stood}; stored ${formatBytes(addedBytes)} more in ${formatMs(performance.now() - began)}\n`,
  )
  console.log(snapshot.id)
}

const show = async (ref: string, options: JsonOptions): Promise<void> => {
  const snapshot = await orNoSnapshot((await connect(options)).snapshots.get(ref))
  if (options.json === true || !process.stdout.isTTY) return print(snapshot)
  const { memory, requires } = { memory: snapshot.memory, requires: snapshot.memory?.requires }
  const rows = {
    id: snapshot.id,
    name: snapshot.name,
    taken: snapshot.createdAt,
    of: snapshot.origin === 'merge' ? 'a merge' : (snapshot.source ?? snapshot.origin),
    parent: snapshot.parent,
    image: snapshot.image,
    files: `${snapshot.entries} paths, ${formatBytes(snapshot.filesBytes)}`,
    memory: memory && memoryText(snapshot),
    processes: memory?.processes.map(({ pid, command }) => `${pid} ${command}`).join('; '),
    ports: memory && memory.ports.length > 0 ? memory.ports.join(', ') : undefined,
    requires: requires && `${requires.runtime}, ${requires.format}, ${requires.architecture}, Linux ${requires.kernel}`,
    stored: `${snapshot.stored}, ${formatBytes(snapshot.addedBytes)} more than before`,
    expires: snapshot.expiresAt ?? undefined,
    labels: Object.entries(snapshot.labels)
      .map(([label, value]) => (value === '' ? label : `${label}=${value}`))
      .join(', '),
  }
  for (const [title, text] of Object.entries(rows))
    if (text !== undefined && text !== '') console.log(`${title.padEnd(10)} ${safeLine(text)}`)
}

const remove = async (refs: string[], options: ConnectionOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const ref of refs) {
    await orNoSnapshot(bramble.snapshots.remove(ref))
    console.log(ref)
  }
}

const diff = async (from: string, to: string, options: JsonOptions): Promise<void> => {
  using interrupted = interrupt()
  const { snapshots } = await connect(options)
  const found = await orNoSnapshot(snapshots.diff(from, to, { signal: interrupted.signal, requestTimeoutMs: 0 }))
  const { stdout } = process
  console.log(
    options.json === true || !stdout.isTTY
      ? JSON.stringify(found, null, 2)
      : diffText(found, { color: hasColor(stdout) }),
  )
}

interface ChangeOptions extends JsonOptions {
  readonly name?: string | false
  readonly ttl?: number | false
  readonly label?: Record<string, string>
}

const change = async (ref: string, { name, ttl, label, ...options }: ChangeOptions): Promise<void> => {
  const bramble = await connect(options)
  const wish = defined({
    name: name === false ? null : name,
    ttlMs: ttl === false ? null : ttl,
    labels: label,
  })
  if (Object.keys(wish).length === 0)
    throw new ExitError(EXIT.failure, 'nothing to change', 'Give --name, --ttl or --label.')
  const snapshot = await orNoSnapshot(bramble.snapshots.change(ref, wish))
  if (options.json === true) print(snapshot)
  else console.log(calledSnapshot(snapshot))
}

interface ExportOptions extends ConnectionOptions {
  readonly memory: boolean
}

const exportOne = async (
  ref: string,
  path: string | undefined,
  { memory, ...options }: ExportOptions,
): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const snapshot = await orNoSnapshot(bramble.snapshots.get(ref, { signal }))
  const file = path ?? `${calledSnapshot(snapshot)}.bramble`
  using progress = transferProgress(`export ${calledSnapshot(snapshot)}`)
  const call = { memory, signal, onBytes: progress.add }
  if (file === '-') {
    const output = (await import('../run/output.ts')).processOutput()
    for await (const piece of await bramble.snapshots.export(snapshot, call)) {
      output.readerGone.throwIfAborted()
      await output.write('stdout', piece)
    }
    return
  }
  const { exportSnapshot } = await import('@bramble/sdk/node')
  await exportSnapshot(bramble, snapshot, file, call).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    throw new ExitError(EXIT.failure, `there is no folder ${dirname(file)}`)
  })
  progress[Symbol.dispose]()
  console.log(file)
}

interface ImportOptions extends JsonOptions {
  readonly name?: string
  readonly trustMemory?: boolean
}

const importOne = async (path: string, { name, trustMemory, json, ...options }: ImportOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connect(options)
  const { openSource } = await import('../open-source.ts')
  const { source, sizeBytes } = await openSource(path)
  using progress = transferProgress(`import ${path}`, sizeBytes)
  const call = { ...defined({ name, trustMemory }), signal: interrupted.signal, onBytes: progress.add }
  const snapshot = await bramble.snapshots.import(source, call)
  progress[Symbol.dispose]()
  if (json === true) return print(snapshot)
  if (snapshot.memory?.trusted === false)
    process.stderr.write('its processes are not run here unless it is imported with --trust-memory\n')
  console.log(snapshot.id)
}

interface RestoreOptions extends JsonOptions {
  readonly name?: string
  readonly memory?: boolean
  readonly env?: Record<string, string>
  readonly network?: string
  readonly ttl?: number
  readonly idleTtl?: number
  readonly label?: Record<string, string>
}

const restore = async (ref: string, options: RestoreOptions): Promise<void> => {
  using interrupted = interrupt()
  const bramble = await connect(options)
  const { name, memory, env, network, ttl: ttlMs, idleTtl: idleTtlMs, label: labels } = options
  using line = waitingLine(`restore ${ref}`)
  const began = performance.now()
  const wish = defined({
    name,
    memory,
    env,
    network: network as 'none' | 'egress' | undefined,
    ttlMs,
    idleTtlMs,
    labels,
  })
  const restored = await orNoSnapshot(bramble.snapshots.restore(ref, { ...wish, signal: interrupted.signal }))
  const instance = restored.keep()
  line[Symbol.dispose]()
  if (options.json === true) return print(instance.info)
  process.stderr.write(`${calledOf(instance)} goes on, after ${formatMs(performance.now() - began)}\n`)
  console.log(instance.id)
}

const print = (value: object): void => console.log(JSON.stringify(value, null, 2))

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

const SNAPSHOT = 'id, 8 or more characters of its beginning, or name'

/** What both `snapshot` and `snapshots` have below them; the first takes one where nothing else is said, the second lists. */
export const addSnapshotCommands = (command: Command, byDefault: 'take' | 'ls'): void => {
  addConnectionOptions(
    command.command('take', { isDefault: byDefault === 'take' }).description('take a snapshot of an instance'),
  )
    .argument('<instance>', 'id, the beginning of one, or name')
    .argument('[name]', 'to find it by: the newest snapshot with a name is meant by it')
    .option('--memory', 'with its processes, or not at all (default: with them where that works)')
    .option('--no-memory', 'its files alone')
    .option('--ttl <time>', 'remove it after so long: 30m, 2h, 7d (default: when someone does)', parseDuration)
    .option('-l, --label <name=value>', 'a label to find it by; may be given many times', collectLabels)
    .option('--json', 'print the snapshot as JSON')
    .addHelpText(
      'after',
      '\nIts id, alone, goes to standard output. The instance stands still for milliseconds, and goes on.',
    )
    .action(take)
  common(command.command('ls', { isDefault: byDefault === 'ls' }).description('list snapshots, newest first'))
    .option('--name <name>', 'only those with this name')
    .option('--of <id>', 'only those of this instance or execution')
    .option('-l, --label <name[=value]>', 'only those with this label')
    .action(list)
  common(command.command('show').description('show all there is to know of a snapshot'))
    .argument('<snapshot>', SNAPSHOT)
    .action(show)
  common(command.command('diff').description('show what is other in the files of the second'))
    .argument('<from>', SNAPSHOT)
    .argument('<to>', SNAPSHOT)
    .action(diff)
  common(command.command('restore').description('start an instance that continues from a snapshot'))
    .argument('<snapshot>', SNAPSHOT)
    .option('--name <name>', 'a name of your own, to use instead of its id')
    .option('--memory', 'its processes go on, or it is not restored (default: they do where that works)')
    .option('--no-memory', 'its files alone')
    .option('-e, --env <name=value>', 'an environment variable; may be given many times', collectPairs)
    .option('--network <kind>', 'none or egress (default: as it was)')
    .option('--ttl <time>', 'how long it lives: 30m, 2h, 7d', parseDuration)
    .option('--idle-ttl <time>', 'how long nobody may use it: 30m, 2h', parseDuration)
    .option('-l, --label <name=value>', 'a label to find it by; may be given many times', collectLabels)
    .action(restore)
  addConnectionOptions(command.command('export').description('write a snapshot into one file'))
    .argument('<snapshot>', SNAPSHOT)
    .argument('[file]', 'where to; - is standard output (default: its name and .bramble)')
    .option('--no-memory', 'its files alone')
    .action(exportOne)
  common(command.command('import').description('bring a snapshot in from a file'))
    .argument('<file>', 'that `export` wrote; - is standard input')
    .option('--name <name>', 'to find it by')
    .option(
      '--trust-memory',
      'its processes may be run here: they run with more rights than a sandbox; needs an admin key',
    )
    .action(importOne)
  common(command.command('set').description('change the name, the labels or the time to live of a snapshot'))
    .argument('<snapshot>', SNAPSHOT)
    .option('--name <name>', 'its name')
    .option('--no-name', 'take its name away')
    .option('--ttl <time>', 'how long from now it is kept', parseDuration)
    .option('--no-ttl', 'keep it until someone removes it')
    .option('-l, --label <name=value>', 'its labels, instead of those it has; may be given many times', collectLabels)
    .action(change)
  addConnectionOptions(command.command('rm').description('remove snapshots; what was made from them lives on'))
    .argument('<snapshot...>', SNAPSHOT)
    .action(remove)
}
