import { BrambleError, LIMITS } from '@bramble/protocol'
import type { Abortable } from '../runtime.ts'
import { exactly } from './check-entries.ts'
import { type LayerReader, openLayerReader } from './layer-reader.ts'
import { decodeRecords, encodeEnd, encodeRecord } from './layer-records.ts'
import { type LayersProgram, startLayersProgram } from './layers-program.ts'
import type { BytePath, LayerEntry, SealSource } from './seals.ts'

const FIRST_PART_BYTES = 128 * 1024
const PART_BYTES = 1024 * 1024
const WRITE_BYTES = 256 * 1024
const IDLE_MS = 500
const MAX_ANSWER_CHARS = 4096

/**
 * Layers as directories of this host: what overlayfs keeps of a sandbox's changes, or, `plain`, any tree of files. They were
 * written by sandboxes, so no link in them is followed, and nothing outside is touched. This process needs to be root.
 */
export interface LayerFiles extends AsyncDisposable {
  /**
   * What is in it, in the order of the paths' bytes. `version` is there where the directory is in a read-only btrfs subvolume:
   * compare it with that of an ancestor only (the seal that the sandbox continued, or an earlier seal of the same sandbox).
   * Rejects with `unsupported` for what no snapshot holds (too many files, a path too long).
   */
  entries(directory: string, options?: LayerOptions): AsyncIterable<LayerEntry>
  /** Of a directory that nothing writes to meanwhile. Rejects with `file_not_found`. */
  read(directory: string, path: BytePath, options?: Abortable): AsyncIterable<Uint8Array>
  /**
   * Fills an empty directory. Rejects with `import_refused` for entries that are not as `SealSource` says, `store_full` where
   * there is no room; what was made until then is for the caller to remove.
   */
  write(directory: string, source: LayerSource, options?: Abortable): Promise<WrittenLayer>
  /** Ends the processes that read. */
  close(): Promise<void>
}

export interface LayerOptions extends Abortable {
  /** Not an overlay's: sockets and devices are left out, and overlayfs has no say. Default false. */
  readonly plain?: boolean
  readonly maxEntries?: number
}

export type LayerSource = Pick<SealSource, 'entries' | 'read' | 'diskBytes'>

export interface WrittenLayer {
  readonly entries: number
  /** Of files without their holes, and what the entries themselves take. */
  readonly usedBytes: number
}

interface SharedReader {
  readonly reader: LayerReader
  users: number
  timer: NodeJS.Timeout | undefined
}

export const createLayerFiles = (): LayerFiles => {
  const readers = new Map<string, SharedReader>()
  const close = async (): Promise<void> => {
    const open = [...readers.values()]
    readers.clear()
    for (const { timer } of open) clearTimeout(timer)
    await Promise.all(open.map(({ reader }) => reader.close()))
  }
  return {
    entries: entriesOf,
    read: (directory, path, options) => readFile(readers, directory, path, options),
    write: writeLayer,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Ends a program when its work is done, or given up. */
const ending = (program: LayersProgram, signal: AbortSignal | undefined): AsyncDisposable => {
  const abort = (): void => program.kill()
  signal?.addEventListener('abort', abort, { once: true })
  return {
    [Symbol.asyncDispose]: async () => {
      signal?.removeEventListener('abort', abort)
      program.kill()
      await program.ended
    },
  }
}

async function* entriesOf(
  directory: string,
  { signal, plain = false, maxEntries = LIMITS.maxSnapshotEntries.value }: LayerOptions = {},
): AsyncGenerator<LayerEntry, void, undefined> {
  signal?.throwIfAborted()
  const program = startLayersProgram(['walk', directory, plain ? 'plain' : 'overlay', String(maxEntries)])
  await using _ = ending(program, signal)
  try {
    yield* decodeRecords(program.stdout as AsyncIterable<Buffer>)
  } catch (error) {
    throw signal?.aborted ? signal.reason : error
  }
}

/** Files are read by one process a directory, which stays for a moment after the last. */
const useReader = (readers: Map<string, SharedReader>, directory: string): SharedReader => {
  const shared = readers.get(directory) ?? { reader: openLayerReader(directory), users: 0, timer: undefined }
  clearTimeout(shared.timer)
  shared.users++
  readers.set(directory, shared)
  return shared
}

const leaveReader = (readers: Map<string, SharedReader>, directory: string, shared: SharedReader): void => {
  shared.users--
  if (shared.users > 0) return
  shared.timer = setTimeout(() => {
    if (readers.get(directory) === shared) readers.delete(directory)
    void shared.reader.close()
  }, IDLE_MS)
  shared.timer.unref()
}

async function* readFile(
  readers: Map<string, SharedReader>,
  directory: string,
  path: BytePath,
  { signal }: Abortable = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted()
  const shared = useReader(readers, directory)
  try {
    let part = await shared.reader.part(path, 0, FIRST_PART_BYTES)
    const { sizeBytes } = part
    let offset = part.data.length
    while (offset < sizeBytes) {
      signal?.throwIfAborted()
      if (part.data.length === 0)
        throw new BrambleError('store_unavailable', { detail: 'a file of a layer is cut off' })
      // The next one comes while this one is used.
      const next = shared.reader.part(path, offset, PART_BYTES)
      next.catch(() => {})
      yield part.data
      part = await next
      offset += part.data.length
    }
    if (part.data.length > 0) yield part.data
  } catch (error) {
    if (readers.get(directory) === shared && !(error instanceof BrambleError && error.code === 'file_not_found'))
      readers.delete(directory)
    throw error
  } finally {
    leaveReader(readers, directory, shared)
  }
}

const writeLayer = async (
  directory: string,
  source: LayerSource,
  { signal }: Abortable = {},
): Promise<WrittenLayer> => {
  signal?.throwIfAborted()
  const limits = [LIMITS.maxSnapshotEntries.value, source.diskBytes].map(String)
  const program = startLayersProgram(['write', directory, ...limits])
  await using _ = ending(program, signal)
  let answer = ''
  let over = false
  program.stdout.on('data', (chunk: Buffer) => {
    answer = (answer + chunk.toString('latin1')).slice(0, MAX_ANSWER_CHARS)
  })
  const gone = program.ended.then((said) => {
    over = true
    return said
  })
  for await (const chunk of gathered(recordsOf(source))) {
    signal?.throwIfAborted()
    if (over) break
    if (!program.stdin.write(chunk)) await Promise.race([drained(program), gone])
  }
  program.stdin.end()
  const said = await gone
  signal?.throwIfAborted()
  return resultOf(answer || said)
}

const drained = (program: LayersProgram): Promise<void> =>
  new Promise((resolve) => program.stdin.once('drain', resolve))

async function* recordsOf(source: LayerSource): AsyncGenerator<Uint8Array, void, undefined> {
  let entries = 0
  for await (const entry of source.entries) {
    entries++
    yield encodeRecord(entry)
    if (entry.type === 'file') yield* exactly(entry.path, entry.sizeBytes, source.read(entry.path))
  }
  yield encodeEnd(entries)
}

/** Small pieces together: each write is a system call, and a turn of the event loop. */
async function* gathered(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  let pieces: Uint8Array[] = []
  let bytes = 0
  for await (const piece of source) {
    pieces.push(piece)
    bytes += piece.length
    if (bytes < WRITE_BYTES) continue
    yield Buffer.concat(pieces, bytes)
    pieces = []
    bytes = 0
  }
  yield Buffer.concat(pieces, bytes)
}

const resultOf = (answer: string): WrittenLayer => {
  const [, kind = '', text = ''] = /^(\S+) ?(.*)/.exec(answer) ?? []
  if (kind === 'ok') {
    const [entries = 0, usedBytes = 0] = text.split(' ').map(Number)
    return { entries, usedBytes }
  }
  const detail = `the files cannot be written: ${text || answer || 'the program ended'}`
  const code = kind === 'refused' ? 'import_refused' : kind === 'full' ? 'store_full' : 'store_unavailable'
  throw new BrambleError(code, { detail })
}
