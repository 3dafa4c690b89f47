import { isUtf8 } from 'node:buffer'
import type { IncomingMessage } from 'node:http'
import { BrambleError } from '@bramble/protocol'

export interface ReadBodyOptions {
  readonly maxBytes: number
  readonly timeoutMs: number
  /** Bytes held for all requests, and their limit: what was read is added, the caller takes it off when it is done. */
  readonly held: { bodyBytes: number }
  readonly maxHeldBytes: number
}

/**
 * Reads a whole body into memory.
 *
 * A body past the limit is refused. A client that sends it without reading would lose the answer in a reset connection,
 * so up to another `3 * maxBytes` are read and thrown away first; past that the connection ends with the answer.
 *
 * Errors: `body_too_large`, `request_timeout`, `queue_full` (too much is held for others), `unsupported_media_type` (a content coding), `cancelled` (the client went).
 */
export const readBody = (request: IncomingMessage, options: ReadBodyOptions): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const coding = request.headers['content-encoding']
    if (coding !== undefined && coding !== 'identity')
      return reject(
        new BrambleError('unsupported_media_type', { detail: `content-encoding \`${coding}\` is not read` }),
      )
    if (Number(request.headers['content-length']) > 4 * options.maxBytes) return reject(tooLarge(options))
    const chunks: Buffer[] = []
    let size = 0
    let heldBytes = 0
    const settle = (outcome: Buffer | BrambleError): void => {
      clearTimeout(timer)
      if (!Buffer.isBuffer(outcome)) options.held.bodyBytes -= heldBytes
      request.off('data', take).off('end', finish).off('close', gone).off('error', gone)
      if (Buffer.isBuffer(outcome)) resolve(outcome)
      else reject(outcome)
    }
    const take = (chunk: Buffer): void => {
      size += chunk.length
      if (size > options.maxBytes) {
        chunks.length = 0
      } else if (options.held.bodyBytes + chunk.length > options.maxHeldBytes) {
        const detail = 'the bodies of the requests under way take all the memory there is for them'
        settle(new BrambleError('queue_full', { detail, retryAfterMs: 1000 }))
      } else {
        chunks.push(chunk)
        heldBytes += chunk.length
        options.held.bodyBytes += chunk.length
      }
      if (size > 4 * options.maxBytes) settle(tooLarge(options))
    }
    const finish = (): void => {
      if (size > options.maxBytes) settle(tooLarge(options))
      else settle(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size))
    }
    const gone = (): void =>
      settle(new BrambleError('cancelled', { detail: 'the client went before its body was read' }))
    const timer = setTimeout(() => {
      settle(
        size > options.maxBytes
          ? tooLarge(options)
          : new BrambleError('request_timeout', { detail: `the body did not arrive in ${options.timeoutMs} ms` }),
      )
    }, options.timeoutMs)
    request.on('data', take).on('end', finish).on('close', gone).on('error', gone)
  })

const tooLarge = ({ maxBytes }: ReadBodyOptions): BrambleError =>
  new BrambleError('body_too_large', { detail: `the body is larger than ${maxBytes} bytes` })

/** Parses JSON in UTF-8 (RFC 8259), or throws `invalid_json`. An empty body is no body. */
export const parseJson = (body: Buffer): unknown => {
  if (body.length === 0) return undefined
  if (!isUtf8(body)) throw new BrambleError('invalid_json', { detail: 'the body is not UTF-8' })
  try {
    return JSON.parse(body.toString())
  } catch (cause) {
    throw new BrambleError('invalid_json', { detail: cause instanceof Error ? cause.message : String(cause), cause })
  }
}
