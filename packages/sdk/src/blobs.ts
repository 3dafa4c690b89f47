import { blobSchema, pageSchema, type TenantBlob } from '@bramble/protocol'
import { joinBytes } from './bytes.ts'
import type { CallOptions } from './call.ts'
import { escapeText } from './escape.ts'
import { contentOf, type FileSource } from './instances/content.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import { counted } from './snapshots/counted.ts'
import type { Transport } from './transport.ts'

export interface PutBlobOptions extends CallOptions {
  /** Its SHA-256, where it is known: other bytes are refused. */
  readonly expect?: string | undefined
  /** How long it is kept. Default 30 days; putting it again begins them anew. */
  readonly ttlMs?: number | undefined
  /** Told of each piece as it goes by; of a source that is sent as a whole, once at the end. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

export interface GetBlobOptions extends CallOptions {
  /** First byte. Default 0. */
  readonly offset?: number | undefined
  /** Bytes from there. Default: to the end. */
  readonly length?: number | undefined
  /** Told of each piece as it goes by. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

/** Bytes named by their SHA-256: for the `files` of specs (`{ blob }`), and what large outputs come as. */
export interface Blobs {
  /** Browsers send a `Blob`; they send no streams over HTTP/1.1. */
  put(source: FileSource, options?: PutBlobOptions): Promise<TenantBlob>
  /** At the reader's pace; read it to its end, or cancel it. `blob_not_found` where the tenant has none of that name. */
  get(hash: string, options?: GetBlobOptions): Promise<ReadableStream<Uint8Array>>
  /** The whole of it, in memory. */
  read(hash: string, options?: GetBlobOptions): Promise<Uint8Array<ArrayBuffer>>
  list(query?: ListQuery): PagedList<TenantBlob>
  /** The tenant has it no longer. */
  remove(hash: string, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/blobs'
const blobPage = pageSchema(blobSchema)
const pathOf = (hash: string): string => `${PATH}/${escapeText(hash)}`

export const blobs = (transport: Transport): Blobs => {
  const get: Blobs['get'] = async (hash, { offset = 0, length, onBytes, ...options } = {}) => {
    if (length === 0) return new ReadableStream({ start: (controller) => controller.close() })
    const ranged = offset > 0 || length !== undefined
    const { body } = await transport.open({
      method: 'GET',
      path: pathOf(hash),
      ...(ranged && { headers: { range: `bytes=${offset}-${length === undefined ? '' : offset + length - 1}` } }),
      ...options,
    })
    return counted(body, onBytes)
  }
  return {
    get,
    put: async (source, { expect, ttlMs, onBytes, ...options } = {}) => {
      const content = contentOf(source)
      const isStream = content instanceof ReadableStream
      const blob = await transport.json(
        {
          method: 'PUT',
          path: PATH,
          query: { expect, ttlMs },
          content: isStream ? counted(content, onBytes) : content,
          contentType: 'application/octet-stream',
          requestTimeoutMs: 0,
          ...options,
        },
        blobSchema,
      )
      if (!isStream) onBytes?.(content instanceof Blob ? content.size : content.length)
      return blob
    },
    read: async (hash, options) => joinBytes(await Array.fromAsync(await get(hash, options))),
    list: (query = {}) => pagedList(transport, PATH, blobPage, {}, query),
    remove: (hash, options = {}) => transport.none({ method: 'DELETE', path: pathOf(hash), ...options }),
  }
}
