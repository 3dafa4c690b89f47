import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { FileEntry, Instance } from '@bramble/sdk'
import { downloadDirectory, uploadDirectory } from '@bramble/sdk/node'
import { EXIT, ExitError } from '../exit.ts'
import { processOutput } from '../run/output.ts'
import { transferProgress } from './transfer-progress.ts'

/** An end of a copy: a path in an instance, a path of this host, or a standard stream of this process. */
export type Place =
  | { readonly kind: 'instance'; readonly instance: Instance; readonly path: string }
  | { readonly kind: 'local'; readonly path: string }
  | { readonly kind: 'stdio' }

type Inside = Extract<Place, { kind: 'instance' }>

/**
 * Copies a file or a tree, as cp(1) does with -r: into `to` where that is a directory, else under that name. `-` reads or
 * writes one file; of a directory it writes a tar archive, and onto a directory it unpacks one.
 */
export const copy = (from: Place, to: Place, signal: AbortSignal): Promise<void> => {
  if (from.kind === 'instance')
    return to.kind === 'instance'
      ? across(from, to, signal)
      : to.kind === 'stdio'
        ? print(from, signal)
        : fetch(from, to.path, signal)
  if (to.kind !== 'instance')
    throw new ExitError(
      EXIT.failure,
      'neither end is in an instance',
      'Write one as <instance>:/path; ./a:b is a local file.',
    )
  return from.kind === 'stdio' ? receive(to, signal) : send(from.path, to, signal)
}

const entryAt = async ({ instance, path }: Inside, signal: AbortSignal): Promise<FileEntry | undefined> => {
  try {
    return await instance.files.stat(path, { followLinks: true, signal })
  } catch (error) {
    if ((error as { code?: unknown }).code === 'file_not_found') return undefined
    throw error
  }
}

/** Where a thing called `name` goes in an instance. */
const placeIn = async (to: Inside, name: string, signal: AbortSignal): Promise<string> => {
  const there = await entryAt(to, signal)
  if (there?.type === 'directory' || (there === undefined && to.path.endsWith('/'))) return join(to.path, name)
  return to.path
}

const nameOf = (path: string): string => {
  const name = basename(path)
  // `.`, `..` and `/` have no name of their own: what is in them is copied.
  return name === '.' || name === '..' ? '' : name
}

const send = async (path: string, to: Inside, signal: AbortSignal): Promise<void> => {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new ExitError(EXIT.failure, `${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`)
  })
  const target = await placeIn(to, nameOf(path), signal)
  const { files } = to.instance
  if (found.isDirectory()) {
    using progress = transferProgress(path)
    await uploadDirectory(to.instance, path, target, { onBytes: progress.add, signal })
    return
  }
  using progress = transferProgress(path, found.isFile() ? found.size : undefined)
  const content = counted(createReadStream(path, { highWaterMark: READ_BYTES }), progress.add)
  await files.write(target, content, { mode: found.mode & 0o777, signal })
}

const READ_BYTES = 256 * 1024

async function* counted(source: AsyncIterable<Uint8Array>, add: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const piece of source) {
    yield piece
    add(piece.length)
  }
}

const receive = async (to: Inside, signal: AbortSignal): Promise<void> => {
  using progress = transferProgress('standard input')
  const content = counted(process.stdin, progress.add)
  const there = await entryAt(to, signal)
  if (there?.type === 'directory') await to.instance.files.upload(content, to.path, { signal })
  else await to.instance.files.write(to.path, content, { signal })
}

const found = async (from: Inside, signal: AbortSignal): Promise<FileEntry> => {
  const entry = await from.instance.files.stat(from.path, { followLinks: true, signal })
  if (entry.type === 'file' || entry.type === 'directory') return entry
  throw new ExitError(EXIT.failure, `${from.path} is a ${entry.type}, not a file or a directory`)
}

const print = async (from: Inside, signal: AbortSignal): Promise<void> => {
  const entry = await found(from, signal)
  const { files } = from.instance
  const output = processOutput()
  const body =
    entry.type === 'directory'
      ? await files.download(from.path, { signal })
      : await files.readStream(from.path, { signal })
  for await (const piece of body) {
    await output.write('stdout', piece)
    if (output.readerGone.aborted) return
  }
}

const fetch = async (from: Inside, path: string, signal: AbortSignal): Promise<void> => {
  const entry = await found(from, signal)
  const here = await stat(path).catch(() => undefined)
  const target =
    here?.isDirectory() || (here === undefined && path.endsWith('/')) ? join(path, nameOf(from.path)) : path
  if (entry.type === 'directory') {
    using progress = transferProgress(from.path)
    const { skipped } = await downloadDirectory(from.instance, from.path, target, { onBytes: progress.add, signal })
    if (skipped > 0) process.stderr.write(`${skipped} devices, pipes or sockets were left out\n`)
    return
  }
  using progress = transferProgress(from.path, entry.sizeBytes)
  await mkdir(dirname(target), { recursive: true })
  const body = await from.instance.files.readStream(from.path, { signal })
  await writeWhole(target, entry.mode & 0o777, counted(body, progress.add))
}

/** Whole or not at all: written beside, then renamed. */
const writeWhole = async (path: string, mode: number, content: AsyncIterable<Uint8Array>): Promise<void> => {
  const there = await stat(path).catch(() => undefined)
  if (there !== undefined && !there.isFile()) throw new ExitError(EXIT.failure, `${path} is here already, and no file`)
  const beside = join(dirname(path), `.${basename(path)}.${process.pid}.part`)
  const file = await open(beside, 'wx', mode)
  try {
    for await (const piece of content)
      for (let at = 0; at < piece.length; ) at += (await file.write(piece, at)).bytesWritten
    await file.chmod(mode)
    await file.close()
    await rename(beside, path)
  } catch (error) {
    await file.close().catch(() => undefined)
    await rm(beside, { force: true })
    throw error
  }
}

const across = async (from: Inside, to: Inside, signal: AbortSignal): Promise<void> => {
  const entry = await found(from, signal)
  const target = await placeIn(to, nameOf(from.path), signal)
  using progress = transferProgress(from.path, entry.type === 'file' ? entry.sizeBytes : undefined)
  if (entry.type === 'directory') {
    const tree = counted(await from.instance.files.download(from.path, { signal }), progress.add)
    await to.instance.files.upload(tree, target, { signal })
  } else {
    const content = counted(await from.instance.files.readStream(from.path, { signal }), progress.add)
    await to.instance.files.write(target, content, { mode: entry.mode & 0o777, signal })
  }
}
