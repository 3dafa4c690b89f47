import { BrambleError, type ErrorCode, type Problem } from '@bramble/protocol'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Fastify's own failures by their code; every other failure with a 4xx status is `invalid_request`. */
const FASTIFY_CODES: Record<string, ErrorCode> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_BODY_TOO_LARGE: 'body_too_large',
  FST_ERR_NOT_FOUND: 'not_found',
}

const property = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined

/**
 * Any thrown value as an error that may be shown. What nobody foresaw becomes `internal` without its message, which may
 * name paths or values of the host: the log has it under the request's id.
 */
export const presentable = (thrown: unknown): BrambleError => {
  if (thrown instanceof BrambleError) return thrown
  // What releasing things threw is not why.
  if (property(thrown, 'name') === 'SuppressedError') return presentable(property(thrown, 'suppressed'))
  const code = FASTIFY_CODES[String(property(thrown, 'code'))]
  const status = property(thrown, 'statusCode')
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  if (code) return new BrambleError(code, { detail: message, cause: thrown })
  if (typeof status === 'number' && status >= 400 && status < 500)
    return new BrambleError('invalid_request', { detail: message, cause: thrown })
  return new BrambleError('internal', { detail: 'an error that was not foreseen', cause: thrown })
}

/** Fastify does not say which media type it refused: most often it is the one that curl sends by itself. */
const mediaTypeNamed = (thrown: unknown, { headers }: FastifyRequest): unknown =>
  property(thrown, 'code') === 'FST_ERR_CTP_INVALID_MEDIA_TYPE'
    ? new BrambleError('unsupported_media_type', {
        detail: `it is \`${(headers['content-type'] ?? 'none').slice(0, 128)}\``,
        cause: thrown,
      })
    : thrown

/** The document for an event stream, where the status line has gone out already. */
export const problemOf = (thrown: unknown, requestId: string): Problem => presentable(thrown).toProblem(requestId)

/** Errors that leave the rest of a body unread. */
const BODY_NOT_READ: readonly ErrorCode[] = ['body_too_large', 'request_timeout', 'queue_full']

/** Answers with the problem document of `thrown`, and logs what is the node's own fault. */
export const sendProblem = (request: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply => {
  const error = presentable(mediaTypeNamed(thrown, request))
  if (error.status >= 500) request.log.error({ code: error.code, err: error.cause ?? error }, error.detail)
  if (error.retryAfterMs !== undefined) reply.header('retry-after', String(Math.ceil(error.retryAfterMs / 1000)))
  // The rest of the body is still on its way: the connection cannot serve another request.
  if (!request.raw.complete && BODY_NOT_READ.includes(error.code)) reply.header('connection', 'close')
  if (error.code === 'unauthorized') reply.header('www-authenticate', 'Bearer')
  return reply
    .code(error.status)
    .header('content-type', 'application/problem+json')
    .send(JSON.stringify(error.toProblem(request.id)))
}

/** What node:http reports before there is a request: its reason by its code. */
const CLIENT_ERRORS: Record<string, [ErrorCode, string]> = {
  HPE_HEADER_OVERFLOW: ['invalid_request', 'the request line and headers are larger than the limit'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: ['invalid_request', 'the chunk extensions are larger than the limit'],
  ERR_HTTP_REQUEST_TIMEOUT: ['request_timeout', 'the request did not arrive in time'],
}

/** A whole HTTP response for a connection that sent something that is not HTTP; the connection ends after it. */
export const clientErrorResponse = (code: string | undefined, requestId: string): string => {
  const [errorCode, detail] = CLIENT_ERRORS[code ?? ''] ?? ['invalid_request', 'the bytes received are not HTTP/1.1']
  const problem = new BrambleError(errorCode, { detail }).toProblem(requestId)
  const body = JSON.stringify(problem)
  return [
    `HTTP/1.1 ${problem.status} ${problem.code}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: ${requestId}`,
    'connection: close',
    '',
    body,
  ].join('\r\n')
}
