import { Readable } from 'node:stream'
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3'
import type { Abortable } from '../blob-store.ts'
import { S3Answer, type S3Connection } from './s3-connection.ts'
import { unavailable } from './s3-error.ts'

/** Keys here are without the location's prefix. */
export interface ObjectInfo {
  readonly key: string
  readonly sizeBytes: number
  /** When it was written: milliseconds since 1970, to the second. */
  readonly modifiedMs: number
}

export interface ObjectPart {
  /** Of the whole object. */
  readonly sizeBytes: number
  /** Names the version of the object: what is read later is to be of the same. */
  readonly etag: string | undefined
  readonly modifiedMs: number
  readonly bytes: Buffer
}

export interface S3Objects {
  readonly connection: S3Connection
  put(key: string, body: Uint8Array, options?: Abortable): Promise<void>
  /** Leaves what is there already, where the server can tell. */
  create(key: string, body: Uint8Array, options?: Abortable): Promise<void>
  /** Small objects: all of it, up to `maxBytes` (the rest is not read, and `sizeBytes` tells). */
  get(key: string, maxBytes: number, options?: Abortable): Promise<ObjectPart | undefined>
  /** The last `length` bytes, or all where it has fewer. */
  tail(key: string, length: number, options?: Abortable): Promise<ObjectPart | undefined>
  /** From `start` to `end` (exclusive). Goes on where a connection broke. Ends early where the server has no more. */
  read(key: string, range: ReadRange, options?: Abortable): AsyncGenerator<Uint8Array, void, undefined>
  head(key: string, options?: Abortable): Promise<ObjectInfo | undefined>
  remove(key: string, options?: Abortable): Promise<void>
  /** In the order of the keys' bytes. */
  list(prefix: string, options?: Abortable): AsyncGenerator<ObjectInfo, void, undefined>
  copy(from: string, to: string, options?: Abortable): Promise<void>
  fullKey(key: string): string
}

export interface ReadRange {
  readonly start: number
  readonly end: number
  readonly etag?: string | undefined
}

/** A copy of up to 5 GiB is done within one request, which may take as long. */
const copyMs = 600_000

export const s3Objects = (connection: S3Connection): S3Objects => {
  const { client, location, observe } = connection
  const Bucket = location.bucket
  const fullKey = (key: string): string => (location.prefix === '' ? key : `${location.prefix}/${key}`)
  const shortKey = (key: string): string => key.slice(fullKey('').length)

  /** One part, read to its end within the attempts of a call: a body that breaks is asked for again. */
  const readPart = async (
    key: string,
    range: string | undefined,
    maxBytes: number,
    { signal }: Abortable,
  ): Promise<ObjectPart | undefined> => {
    const answer = await connection.call(
      `reading ${key}`,
      async (abortSignal) => {
        const output = await client.send(new GetObjectCommand({ Bucket, Key: fullKey(key), Range: range }), {
          abortSignal,
        })
        const pieces: Uint8Array[] = []
        let length = 0
        for await (const piece of bodyOf(output)) {
          observe({ kind: 'received', bytes: piece.length })
          length += piece.length
          pieces.push(piece)
          if (length > maxBytes) break
        }
        const bytes = Buffer.concat(pieces)
        const announced = announcedOf(output)
        if (announced !== undefined && length < Math.min(announced, maxBytes))
          throw new Error(`an answer of ${length} bytes, of the ${announced} that it tells of`)
        return { output, bytes }
      },
      { signal },
    )
    if (answer instanceof S3Answer) {
      if (answer.failure === 'range') return { sizeBytes: 0, etag: undefined, modifiedMs: 0, bytes: Buffer.alloc(0) }
      return undefined
    }
    const { output, bytes } = answer
    return {
      sizeBytes: totalOf(output) ?? bytes.length,
      etag: output.ETag,
      modifiedMs: output.LastModified?.getTime() ?? 0,
      bytes,
    }
  }

  async function* read(
    key: string,
    { start, end, etag }: ReadRange,
    { signal }: Abortable = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    let at = start
    let failed: unknown
    // Attempts without progress; a body that goes on breaking somewhere else is still a body that comes.
    for (let attempt = 1; at < end && attempt <= connection.limits.attempts; attempt++) {
      const Range = `bytes=${at}-${end - 1}`
      const output = await connection.call(
        `reading ${key}`,
        (abortSignal) =>
          client.send(new GetObjectCommand({ Bucket, Key: fullKey(key), Range, IfMatch: etag }), { abortSignal }),
        { signal },
      )
      if (output instanceof S3Answer) {
        if (output.failure === 'range') return
        const what = output.failure === 'missing' ? 'it is gone' : 'it was written anew'
        throw unavailable(location.label, `reading ${key}`, new Error(what))
      }
      // A server that knows no ranges begins at the beginning.
      let skip = output.ContentRange === undefined ? at : 0
      failed = undefined
      const body = bodyOf(output)
      const stop = (): void => stopBody(body)
      signal?.addEventListener('abort', stop)
      try {
        for await (const piece of body) {
          signal?.throwIfAborted()
          observe({ kind: 'received', bytes: piece.length })
          const part = piece.subarray(skip, skip + end - at)
          skip = Math.max(0, skip - piece.length)
          if (part.length === 0) continue
          at += part.length
          attempt = 1
          yield part
          if (at >= end) return
        }
      } catch (thrown) {
        signal?.throwIfAborted()
        failed = thrown
      } finally {
        signal?.removeEventListener('abort', stop)
      }
    }
    if (failed !== undefined) throw unavailable(location.label, `reading ${key}`, failed)
  }

  const head: S3Objects['head'] = async (key, { signal } = {}) => {
    const answer = await connection.call(
      `asking for ${key}`,
      (abortSignal) => client.send(new HeadObjectCommand({ Bucket, Key: fullKey(key) }), { abortSignal }),
      { signal },
    )
    if (answer instanceof S3Answer) return undefined
    return { key, sizeBytes: answer.ContentLength ?? 0, modifiedMs: answer.LastModified?.getTime() ?? 0 }
  }

  const write = async (
    key: string,
    Body: Uint8Array,
    { signal, IfNoneMatch }: Abortable & { readonly IfNoneMatch?: '*' },
  ): Promise<void> => {
    const input = { Bucket, Key: fullKey(key), Body, ...(IfNoneMatch && { IfNoneMatch }) }
    const answer = await connection.call(
      `writing ${key}`,
      (abortSignal) => client.send(new PutObjectCommand(input), { abortSignal }),
      { signal },
    )
    if (answer instanceof S3Answer) {
      if (IfNoneMatch && answer.failure === 'changed') return
      throw unavailable(location.label, `writing ${key}`, new Error(answer.failure))
    }
    observe({ kind: 'sent', bytes: Body.length })
  }

  return {
    connection,
    fullKey,
    read,
    head,
    put: (key, body, options = {}) => write(key, body, options),
    create: (key, body, options = {}) => write(key, body, { ...options, IfNoneMatch: '*' }),
    get: (key, maxBytes, options = {}) => readPart(key, undefined, maxBytes, options),
    tail: async (key, length, options = {}) => {
      const part = await readPart(key, `bytes=-${length}`, length, options)
      if (!part || part.bytes.length <= length) return part
      // The server knows no such ranges, and began at the beginning.
      const { sizeBytes, etag, modifiedMs } = part
      const pieces: Uint8Array[] = []
      const range = { start: Math.max(0, sizeBytes - length), end: sizeBytes, etag }
      for await (const piece of read(key, range, options)) pieces.push(piece)
      return { sizeBytes, etag, modifiedMs, bytes: Buffer.concat(pieces) }
    },
    remove: async (key, { signal } = {}) => {
      await connection.call(
        `removing ${key}`,
        (abortSignal) => client.send(new DeleteObjectCommand({ Bucket, Key: fullKey(key) }), { abortSignal }),
        { signal },
      )
    },
    list: async function* (prefix, { signal } = {}) {
      let ContinuationToken: string | undefined
      do {
        const token: string | undefined = ContinuationToken
        const page = await connection.call(
          `listing ${prefix}`,
          (abortSignal) =>
            client.send(
              new ListObjectsV2Command({
                Bucket,
                Prefix: fullKey(prefix),
                ...(token !== undefined && { ContinuationToken: token }),
              }),
              { abortSignal },
            ),
          { signal },
        )
        if (page instanceof S3Answer) throw unavailable(location.label, `listing ${prefix}`, new Error(page.failure))
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? []) {
          signal?.throwIfAborted()
          yield { key: shortKey(Key), sizeBytes: Size, modifiedMs: LastModified?.getTime() ?? 0 }
        }
        ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined
      } while (ContinuationToken !== undefined)
    },
    copy: async (from, to, { signal } = {}) => {
      const CopySource = [Bucket, ...fullKey(from).split('/')].map(encodeURIComponent).join('/')
      const answer = await connection.call(
        `copying to ${to}`,
        (abortSignal) => client.send(new CopyObjectCommand({ Bucket, Key: fullKey(to), CopySource }), { abortSignal }),
        { signal, withinMs: copyMs },
      )
      if (answer instanceof S3Answer)
        throw unavailable(location.label, `copying to ${to}`, new Error(`the source is ${answer.failure}`))
    },
  }
}

const bodyOf = (output: GetObjectCommandOutput): AsyncIterable<Uint8Array> => {
  const { Body } = output
  if (Body === undefined) throw new Error('an answer without a body')
  if (!(Symbol.asyncIterator in Body)) throw new Error('an answer whose body is no stream')
  return Body as AsyncIterable<Uint8Array>
}

/** Whoever waits for its next piece is told. */
const stopBody = (body: AsyncIterable<Uint8Array>): void => {
  if (body instanceof Readable) body.destroy()
}

/** The size of the whole object. */
const totalOf = ({ ContentRange, ContentLength }: GetObjectCommandOutput): number | undefined => {
  const total = /\/(\d+)$/.exec(ContentRange ?? '')?.[1]
  return total === undefined ? ContentLength : Number(total)
}

/** How many bytes the answer's range has. */
const announcedOf = ({ ContentRange }: GetObjectCommandOutput): number | undefined => {
  const match = /^bytes (\d+)-(\d+)\//.exec(ContentRange ?? '')
  return match ? Number(match[2]) - Number(match[1]) + 1 : undefined
}
