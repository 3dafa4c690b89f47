import type { FastifyReply, FastifyRequest } from 'fastify'

const ALLOWED_HEADERS =
  'authorization, content-type, accept, range, if-range, if-none-match, idempotency-key, x-request-id'
const EXPOSED_HEADERS =
  'x-request-id, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, idempotent-replayed, accept-ranges, content-length, content-range, etag, content-disposition, x-bramble-mode, x-bramble-uid, x-bramble-gid'

/**
 * Lets pages of the named origins read answers (Fetch standard, CORS). No credentials: keys are sent by hand. True where the
 * request was a preflight, and is answered.
 */
export const applyCors = (origins: readonly string[], request: FastifyRequest, reply: FastifyReply): boolean => {
  if (origins.length === 0) return false
  reply.header('vary', 'origin')
  const { origin } = request.headers
  if (origin === undefined || !(origins.includes(origin) || origins.includes('*'))) return false
  reply.header('access-control-allow-origin', origin)
  reply.header('access-control-expose-headers', EXPOSED_HEADERS)
  if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined) return false
  reply.headers({
    'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE',
    'access-control-allow-headers': ALLOWED_HEADERS,
    'access-control-max-age': '600',
  })
  reply.code(204).send()
  return true
}
