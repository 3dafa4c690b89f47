import { type Dirent, lstatSync } from 'node:fs'
import { open, readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { TreeUploadResult } from '@bramble/protocol'
import type { FileCall, FilePath } from '../instances/files.ts'
import type { Instance } from '../instances/instance.ts'
import { tarEnd, tarHeader, tarPadding } from '../instances/tar.ts'

export interface UploadOptions extends FileCall {
  /** Told of each piece of content as it is sent. */
  readonly onBytes?: ((bytes: number) => void) | undefined
  /** Whether an entry goes along; of a directory: with all that is in it. The path is relative, with `/`. */
  readonly filter?: ((path: string, isDirectory: boolean) => boolean) | undefined
}

/** One read; small files are one each. */
const READ_BYTES = 256 * 1024
/** Small pieces are sent together. */
const BATCH_BYTES = 256 * 1024
/** Files whose content is read ahead of the one that is sent. */
const READ_AHEAD = 16
const SMALL_BYTES = 64 * 1024

/**
 * Puts a file or a directory of this host into an instance, below `path`, with permissions and times; symbolic links stay
 * links. Sockets, pipes and devices are left out. Nothing is held in memory but what is under way.
 */
export const uploadDirectory = (
  instance: Pick<Instance, 'files'>,
  localPath: string,
  path: FilePath,
  options: UploadOptions = {},
): Promise<TreeUploadResult> => {
  const { onBytes, filter, ...call } = options
  return instance.files.upload(batches(archiveOf(localPath, { onBytes, filter })), path, call)
}

interface Found {
  /** Relative, with `/`; bytes, since a name may be no UTF-8. */
  readonly name: Buffer
  readonly here: Buffer
  readonly isDirectory: boolean
  readonly isLink: boolean
}

interface Walking extends Pick<UploadOptions, 'onBytes' | 'filter'> {}

const SLASH = Buffer.from('/')
const concat = (...parts: Buffer[]): Buffer => Buffer.concat(parts)

async function* walk(directory: Buffer, prefix: Buffer, filter: Walking['filter']): AsyncGenerator<Found> {
  const entries = (await readdir(directory, { withFileTypes: true, encoding: 'buffer' })) as Dirent<Buffer>[]
  for (const entry of entries.sort((left, right) => Buffer.compare(left.name, right.name))) {
    const name = concat(prefix, entry.name)
    const here = concat(directory, SLASH, entry.name)
    const isDirectory = entry.isDirectory()
    const isLink = entry.isSymbolicLink()
    if (!isDirectory && !isLink && !entry.isFile()) continue
    if (filter !== undefined && !filter(name.toString(), isDirectory)) continue
    yield { name, here, isDirectory, isLink }
    if (isDirectory) yield* walk(here, concat(name, SLASH), filter)
  }
}

async function* archiveOf(localPath: string, { onBytes, filter }: Walking): AsyncGenerator<Uint8Array> {
  const root = Buffer.from(join(localPath))
  const isDirectory = lstatSync(root).isDirectory()
  const found = isDirectory
    ? walk(root, Buffer.alloc(0), filter)
    : (async function* (): AsyncGenerator<Found> {
        yield { name: Buffer.from(root.subarray(root.lastIndexOf(SLASH) + 1)), here: root, isDirectory, isLink: false }
      })()
  // Small files are read ahead: a tree of them is a wait for the disk after each otherwise.
  const ahead: Promise<AsyncIterable<Uint8Array> | Uint8Array[]>[] = []
  const give = async function* (piece: (typeof ahead)[number]): AsyncGenerator<Uint8Array> {
    for await (const bytes of await piece) {
      yield bytes
      onBytes?.(bytes.length)
    }
  }
  for await (const entry of found) {
    const piece = entryOf(entry)
    piece.catch(() => undefined)
    ahead.push(piece)
    const next = ahead.length > READ_AHEAD ? ahead.shift() : undefined
    if (next !== undefined) yield* give(next)
  }
  for (const piece of ahead) yield* give(piece)
  yield tarEnd()
}

const entryOf = async (entry: Found): Promise<AsyncIterable<Uint8Array> | Uint8Array[]> => {
  if (entry.isLink) {
    const { mtimeMs } = lstatSync(entry.here)
    const target = await readlink(entry.here, { encoding: 'buffer' })
    return [tarHeader({ path: entry.name, type: 'symlink', sizeBytes: 0, mode: 0o777, modifiedAtMs: mtimeMs, target })]
  }
  if (entry.isDirectory) {
    const { mode, mtimeMs } = lstatSync(entry.here)
    const path = concat(entry.name, SLASH)
    return [tarHeader({ path, type: 'directory', sizeBytes: 0, mode, modifiedAtMs: mtimeMs })]
  }
  const file = await open(entry.here, 'r')
  let keep = false
  try {
    const { size, mode, mtimeMs } = await file.stat()
    const header = tarHeader({ path: entry.name, type: 'file', sizeBytes: size, mode, modifiedAtMs: mtimeMs })
    if (size > SMALL_BYTES) {
      keep = true
      return contentOf(file, header, size)
    }
    const content = Buffer.alloc(size)
    // What became shorter meanwhile ends in zeros: the header has promised its size.
    await file.read(content, 0, size, 0)
    return [header, content, tarPadding(size)]
  } finally {
    if (!keep) await file.close()
  }
}

async function* contentOf(
  file: Awaited<ReturnType<typeof open>>,
  header: Uint8Array,
  size: number,
): AsyncGenerator<Uint8Array> {
  try {
    yield header
    for (let at = 0; at < size; ) {
      const length = Math.min(READ_BYTES, size - at)
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, at)
      yield bytesRead > 0 ? buffer.subarray(0, bytesRead) : Buffer.alloc(length)
      at += bytesRead > 0 ? bytesRead : length
    }
    yield tarPadding(size)
  } finally {
    await file.close()
  }
}

/** Pieces put together, so that thousands of small files are not thousands of writes. */
async function* batches(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let batch: Uint8Array[] = []
  let bytes = 0
  for await (const piece of pieces) {
    batch.push(piece)
    bytes += piece.length
    if (bytes < BATCH_BYTES) continue
    yield batch.length === 1 ? piece : Buffer.concat(batch, bytes)
    batch = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(batch, bytes)
}
