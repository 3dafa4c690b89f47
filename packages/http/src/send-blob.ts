import type { OutgoingHttpHeaders } from 'node:http'
import { BrambleError } from '@bramble/protocol'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { byteRange } from './byte-range.ts'
import type { Answer } from './idempotency.ts'
import { type BytesOptions, sendBytes } from './send-bytes.ts'

export interface BlobAnswer extends Pick<BytesOptions, 'stallTimeoutMs' | 'count'> {
  /** Its entity tag: the same bytes for ever. */
  readonly hash: string
  readonly sizeBytes: number
  readonly headers?: OutgoingHttpHeaders
  readonly open: (range?: { readonly start: number; readonly end: number }) => Promise<AsyncIterable<Uint8Array>>
}

/**
 * Answers GET and HEAD of a blob. `If-None-Match`, `If-Range` and one `Range` are heeded (RFC 9110). It is a download, never a page
 * of the server's own.
 */
export const sendBlob = async (request: FastifyRequest, reply: FastifyReply, blob: BlobAnswer): Promise<Answer> => {
  const { hash, sizeBytes, open, stallTimeoutMs, count } = blob
  const etag = `"${hash}"`
  const headers = {
    'content-type': 'application/octet-stream',
    'content-disposition': 'attachment',
    'accept-ranges': 'bytes',
    etag,
    ...blob.headers,
  }
  const about = { headers, stallTimeoutMs, count }
  const asked = request.headers
  const tags = asked['if-none-match']?.split(',').map((text) => text.trim().replace(/^W\//, ''))
  if (tags?.includes('*') || tags?.includes(etag)) return sendBytes(reply, { ...about, status: 304 })
  if (request.method === 'HEAD') return sendBytes(reply, { ...about, status: 200, length: sizeBytes })
  const isSame = asked['if-range'] === undefined || asked['if-range'] === etag
  const part = isSame && asked.range !== undefined ? rangeOf(asked.range, sizeBytes, reply) : undefined
  if (!part) return sendBytes(reply, { ...about, status: 200, length: sizeBytes, body: await open() })
  const [start, end] = [part.offset, part.offset + part.length]
  const ranged = { ...headers, 'content-range': `bytes ${start}-${end - 1}/${sizeBytes}` }
  const body = await open({ start, end })
  return sendBytes(reply, { ...about, headers: ranged, status: 206, length: part.length, body })
}

const rangeOf = (header: string, sizeBytes: number, reply: FastifyReply) => {
  try {
    return byteRange(header, sizeBytes)
  } catch (error) {
    if (error instanceof BrambleError) reply.header('content-range', `bytes */${sizeBytes}`)
    throw error
  }
}
