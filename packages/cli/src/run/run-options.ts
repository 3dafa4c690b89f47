import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { ExecutionSpecInput } from '@bramble/protocol'
import type { Command } from 'commander'
import { defined } from '../defined.ts'
import { EXIT, ExitError } from '../exit.ts'
import { collect, collectLabels, collectPairs, parseDuration } from '../parse-value.ts'
import { addSandboxOptions } from '../sandbox-options.ts'
import { commandOf } from './command-of.ts'

/** The options of `bramble run` that describe the execution. */
export interface SpecOptions {
  readonly image?: string
  readonly env?: Record<string, string>
  readonly cpus?: number
  readonly memory?: number
  readonly disk?: number
  readonly pids?: number
  readonly timeout?: number
  readonly stdin?: boolean
  readonly file?: string[]
  readonly workdir?: string
  readonly user?: string
  readonly label?: Record<string, string>
  readonly mode?: string
  readonly from?: string
  readonly cacheTtl?: number
  readonly runtime?: string
  readonly network?: string
}

/** What a command runs with, whatever it runs in. */
export const addCommandOptions = (command: Command): Command =>
  command
    .option('-e, --env <name=value>', 'an environment variable; may be given many times', collectPairs)
    .option('--timeout <time>', 'how long it may run: 500ms, 30s, 5m, 2h (default: 1m)', parseDuration)
    .option('-i, --stdin', 'read standard input to its end and give it to the command')
    .option('--file <path[:path]>', 'put a file of this host into the sandbox, there at the second path', collect)
    .option('-w, --workdir <path>', 'the directory that it runs in')
    .option('-u, --user <user>', 'user, uid, user:group or uid:gid')
    .option('-l, --label <name=value>', 'a label to find it by; may be given many times', collectLabels)
    .option('--network <kind>', 'none or egress (default: none)')

export const addSpecOptions = (command: Command): Command =>
  addCommandOptions(addSandboxOptions(command))
    .option('--mode <mode>', 'ephemeral (default), cached, checkpointed, branched, persistent')
    .option('--from <snapshot>', 'begin in the state of a snapshot: id, beginning of one, or name')
    .option('--cache-ttl <time>', 'in mode cached: how long the result is kept, and how old one may be', parseDuration)
    .option('--runtime <name>', 'auto (default), oci, docker')

/** The execution that the words and options ask for; reads the files they name, and standard input if asked to. */
export const specOf = async (words: readonly string[], options: SpecOptions): Promise<ExecutionSpecInput> => {
  const { image, env, workdir, user, label, mode, runtime, network } = options
  const resources = {
    cpus: options.cpus,
    memoryMb: options.memory,
    diskMb: options.disk,
    pids: options.pids,
    timeoutMs: options.timeout,
  }
  const spec = {
    command: commandOf(words),
    ...defined({ image, env, workdir, user, labels: label, mode, runtime, network }),
    ...defined({ checkpoint: options.from, cacheTtlMs: options.cacheTtl }),
    resources: defined(resources),
    ...(options.file !== undefined && { files: await filesOf(options.file) }),
    ...(options.stdin === true && { stdin: contentOf(await readAll(process.stdin)) }),
  }
  // Enumerations arrive as text: whoever runs it parses the spec and names the field that cannot be.
  return spec as ExecutionSpecInput
}

const readAll = async (stream: AsyncIterable<Buffer>): Promise<Buffer> => {
  const { LIMITS } = await import('@bramble/protocol')
  const maxBytes = LIMITS.maxStdinBytes.value
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of stream) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > maxBytes)
      throw new ExitError(
        EXIT.failure,
        `standard input is longer than ${maxBytes} bytes`,
        'Put large inputs into an image, or give them with --file.',
      )
  }
  return Buffer.concat(chunks)
}

const contentOf = (bytes: Buffer): string | { base64: string } => {
  const text = bytes.toString('utf8')
  return Buffer.from(text, 'utf8').equals(bytes) ? text : { base64: bytes.toString('base64') }
}

const whyUnread = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return 'there is no such file'
    case 'EISDIR':
      return 'it is a directory: give files, or a tar with --stdin'
    case 'EACCES':
      return 'it may not be read'
    default:
      return error.message
  }
}

/** `path` becomes `/path`'s last name in the working directory; `path:there` goes there. Permissions come along. */
const filesOf = async (given: readonly string[]): Promise<NonNullable<ExecutionSpecInput['files']>> => {
  const { stat } = await import('node:fs/promises')
  const files: Record<string, { base64: string; mode: number }> = {}
  for (const text of given) {
    const colon = text.lastIndexOf(':')
    const here = colon > 0 ? text.slice(0, colon) : text
    const there = colon > 0 ? text.slice(colon + 1) : basename(text)
    try {
      const { mode } = await stat(here)
      files[there] = { base64: (await readFile(here)).toString('base64'), mode: mode & 0o777 }
    } catch (error) {
      throw new ExitError(EXIT.failure, `--file ${text}: ${whyUnread(error)}`)
    }
  }
  return files
}
