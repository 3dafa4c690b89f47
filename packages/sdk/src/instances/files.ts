import {
  type FileEntry,
  fileEntrySchema,
  fileListSchema,
  type TreeUploadResult,
  treeUploadResultSchema,
} from '@bramble/protocol'
import { joinBytes } from '../bytes.ts'
import type { CallOptions } from '../call.ts'
import { escapeBytes, escapeText } from '../escape.ts'
import type { Transport } from '../transport.ts'
import { contentOf, type FileSource, streamOf } from './content.ts'
import type { InstanceStream, Watch, WatchOptions } from './instance-stream.ts'
import { type FileTree, tarOf } from './tree.ts'

/** A path in the sandbox; bytes for a name that is no UTF-8. A relative one begins at `/`. `.` and `..` are resolved here, as text. */
export type FilePath = string | Uint8Array

export interface FileCall extends CallOptions {
  /** Whose permissions. Default: the instance's user. */
  readonly user?: string | undefined
}

export interface RangeOptions extends FileCall {
  /** First byte. Default 0. */
  readonly offset?: number | undefined
  /** Bytes from there. Default: to the end. */
  readonly length?: number | undefined
}

export interface WriteOptions extends FileCall {
  /** Permission bits. Default: those of the file that is replaced, else 0o644. */
  readonly mode?: number | undefined
}

/** A tree for a sandbox: files by path, or a tar archive. */
export type TreeSource = FileTree | Blob | Uint8Array | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>

/** Whole trees in and out, as tar archives. */
export interface FileStorage {
  /** Puts a tree below `path`, which is made. */
  upload(tree: TreeSource, path: FilePath, options?: FileCall): Promise<TreeUploadResult>
  /** A file or a tree as a tar archive, with names relative to it; it comes at the reader's pace. */
  download(
    path: FilePath,
    options?: FileCall & { readonly gzip?: boolean | undefined },
  ): Promise<ReadableStream<Uint8Array<ArrayBuffer>>>
}

/**
 * The files of an instance, with the permissions of its user. Nothing is held in memory but what is asked for as a whole
 * (`read`, `readText`). Waiting for a large file has no clock, unless `requestTimeoutMs` gives one.
 */
export interface Files extends FileStorage {
  read(path: FilePath, options?: RangeOptions): Promise<Uint8Array<ArrayBuffer>>
  readText(path: FilePath, options?: RangeOptions): Promise<string>
  /** Read it to its end, or cancel it. */
  readStream(path: FilePath, options?: RangeOptions): Promise<ReadableStream<Uint8Array<ArrayBuffer>>>
  /** Whole or not at all: whoever reads it sees the old file or the new one. Parents are made. */
  write(path: FilePath, content: FileSource, options?: WriteOptions): Promise<FileEntry>
  list(
    path: FilePath,
    options?: FileCall & { readonly recursive?: boolean | undefined },
  ): Promise<{ items: FileEntry[]; truncated: boolean }>
  /** Of a symbolic link itself, unless `followLinks`. `file_not_found` where there is nothing. */
  stat(path: FilePath, options?: FileCall & { readonly followLinks?: boolean | undefined }): Promise<FileEntry>
  /** Replaces a file at `to`, never a directory that is not empty. */
  move(from: FilePath, to: FilePath, options?: FileCall): Promise<void>
  remove(path: FilePath, options?: FileCall & { readonly recursive?: boolean | undefined }): Promise<void>
  mkdir(
    path: FilePath,
    options?: FileCall & { readonly parents?: boolean | undefined; readonly mode?: number | undefined },
  ): Promise<void>
  chmod(path: FilePath, mode: number, options?: FileCall): Promise<void>
  chown(path: FilePath, owner: { readonly uid: number; readonly gid: number }, options?: FileCall): Promise<void>
  /** What changes in a file or a directory, and below it unless `recursive: false`, until the loop is left. It begins at once. */
  watch(path: string, options?: CallOptions & WatchOptions): Watch
}

const OCTETS = 'application/octet-stream'

export interface FilesPlace {
  readonly transport: Transport
  /** Of the instance, below `/`. */
  readonly path: string
  openStream(options: CallOptions & { processes: boolean }): Promise<InstanceStream>
}

export const filesOf = (place: FilesPlace): Files => {
  const { transport, path: instance } = place
  const change = (
    query: Record<string, string | number | boolean | Uint8Array | undefined>,
    options: FileCall = {},
  ) => {
    const { user, ...call } = options
    return transport.none({ method: 'POST', path: `${instance}/files`, query: { ...query, user }, ...call })
  }
  const readStream: Files['readStream'] = async (path, options = {}) => {
    const { offset = 0, length, user, ...call } = options
    if (length === 0) return new ReadableStream({ start: (controller) => controller.close() })
    const ranged = offset > 0 || length !== undefined
    const { body } = await transport.open({
      method: 'GET',
      path: `${instance}/files${urlPath(path)}`,
      query: { user },
      ...(ranged && { headers: { range: `bytes=${offset}-${length === undefined ? '' : offset + length - 1}` } }),
      ...call,
    })
    return body
  }
  const read: Files['read'] = async (path, options) => joinBytes(await Array.fromAsync(await readStream(path, options)))

  return {
    readStream,
    read,
    readText: async (path, options) => new TextDecoder().decode(await read(path, options)),
    write: (path, content, options = {}) => {
      const { user, mode, ...call } = options
      return transport.json(
        {
          method: 'PUT',
          path: `${instance}/files${urlPath(path)}`,
          query: { user, mode: mode?.toString(8) },
          content: contentOf(content),
          contentType: OCTETS,
          requestTimeoutMs: 0,
          ...call,
        },
        fileEntrySchema,
      )
    },
    list: (path, options = {}) => {
      const { user, recursive, ...call } = options
      return transport.json(
        { method: 'GET', path: `${instance}/files`, query: { list: path, recursive, user }, ...call },
        fileListSchema,
      )
    },
    stat: (path, options = {}) => {
      const { user, followLinks, ...call } = options
      return transport.json(
        { method: 'GET', path: `${instance}/files`, query: { stat: path, followLinks, user }, ...call },
        fileEntrySchema,
      )
    },
    move: (from, to, options) => change({ move: from, to }, options),
    remove: (path, options = {}) => {
      const { user, recursive, ...call } = options
      const query = { recursive, user }
      return transport.none({ method: 'DELETE', path: `${instance}/files${urlPath(path)}`, query, ...call })
    },
    mkdir: (path, options = {}) => {
      const { parents, mode, ...call } = options
      return change({ mkdir: path, parents, mode: mode?.toString(8) }, call)
    },
    chmod: (path, mode, options) => change({ chmod: path, mode: mode.toString(8) }, options),
    chown: (path, { uid, gid }, options) => change({ chown: path, uid, gid }, options),
    upload: (tree, path, options = {}) => {
      const { user, ...call } = options
      const content = isArchive(tree) ? contentOf(tree) : streamOf(tarOf(tree))
      return transport.json(
        { method: 'POST', path: `${instance}/upload`, query: { path, user }, content, requestTimeoutMs: 0, ...call },
        treeUploadResultSchema,
      )
    },
    download: async (path, options = {}) => {
      const { user, gzip, ...call } = options
      return (
        await transport.open({ method: 'GET', path: `${instance}/download`, query: { path, gzip, user }, ...call })
      ).body
    },
    watch: (path, { recursive, ...options } = {}) => {
      const opened = place.openStream({ ...options, processes: false })
      const watched = opened.then((stream) => ({
        stream,
        watch: stream.watch(path, { recursive, signal: options.signal }),
      }))
      const ready = watched.then(({ watch }) => watch.ready)
      // Nobody would read of a watch that never was.
      ready.catch(() => opened.then((stream) => stream.close())).catch(() => undefined)
      return {
        ready,
        async *[Symbol.asyncIterator]() {
          const { stream, watch } = await watched
          await using _closed = stream
          yield* watch
        },
        async [Symbol.asyncDispose]() {
          // One that could not be opened has ended.
          const made = await watched.catch(() => undefined)
          await made?.watch[Symbol.asyncDispose]()
          await made?.stream[Symbol.asyncDispose]()
        },
      }
    },
  }
}

const isArchive = (tree: TreeSource): tree is Exclude<TreeSource, FileTree> =>
  tree instanceof Uint8Array || tree instanceof Blob || Symbol.asyncIterator in tree || tree instanceof ReadableStream

/**
 * A path as part of a URL, from its first `/`. `.` and `..` are resolved here, because `fetch` would resolve them too, and
 * then out of the instance's files.
 */
const urlPath = (path: FilePath): string => {
  const names: string[] = []
  for (const name of typeof path === 'string' ? path.split('/').map(escapeText) : escapeBytes(path).split('%2f')) {
    if (name === '..') names.pop()
    else if (name !== '' && name !== '.') names.push(name)
  }
  return `/${names.join('/')}`
}
