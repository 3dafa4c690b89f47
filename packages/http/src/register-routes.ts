import { hash } from 'node:crypto'
import { BrambleError, parse } from '@bramble/protocol'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { type Caller, isDirectLoopback, requireScope } from './auth.ts'
import type { HttpContext } from './context.ts'
import type { Answer } from './idempotency.ts'
import { problemOf } from './problems.ts'
import { rateHeaders } from './rate-limit.ts'
import { parseJson, readBody } from './read-body.ts'
import type { Call, Route } from './route.ts'
import { cutWhenStalled, type EventStream, openEventStream } from './sse.ts'

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | null
  }
}

const NO_PARAMETERS = z.strictObject({})

/** Registers every route of the table: admission before the body is read, checks, the handler, the answer. */
export const registerRoutes = <Context extends HttpContext>(
  app: FastifyInstance,
  context: Context,
  table: readonly Route<Context>[],
): void => {
  app.decorateRequest('caller', null)
  app.removeAllContentTypeParsers()
  // Only read here, and parsed in the handler: Fastify closes the connection after a parser that throws.
  const { maxBodyBytes: maxBytes, maxHeldBodyBytes: maxHeldBytes, bodyTimeoutMs: timeoutMs } = context.limits
  const { held } = context
  app.addContentTypeParser('application/json', (request: FastifyRequest) =>
    readBody(request.raw, { maxBytes, timeoutMs, held, maxHeldBytes }),
  )
  for (const route of table) {
    const { upload } = route
    if (!upload) add(app, context, route)
    else
      app.register(async (child) => {
        // Of any type: JSON too is a stream of bytes here.
        if (upload.includes('*')) child.removeAllContentTypeParsers()
        child.addContentTypeParser(upload.includes('*') ? '*' : [...upload], (_request, _payload, done) =>
          done(null, undefined),
        )
        add(child, context, route)
      })
  }
}

const add = <Context extends HttpContext>(app: FastifyInstance, context: Context, route: Route<Context>): void => {
  app.route({
    method: route.method,
    url: route.path,
    // Probes of load balancers use HEAD; nothing else needs it.
    exposeHeadRoute: route.scope === 'public',
    // Fastify counts the bytes of the parsers it owns; ours have their own limits.
    bodyLimit: Number.MAX_SAFE_INTEGER,
    onRequest: async (request, reply) => admit(context, route, request, reply),
    handler: async (request, reply) => {
      try {
        return await serve(context, route, request, reply)
      } finally {
        context.held.bodyBytes -= bytesOf(request).length
      }
    },
  })
}

const isSigned = ({ headers }: FastifyRequest): boolean => headers['bramble-signature'] !== undefined

const isRead = ({ method }: FastifyRequest): boolean => method === 'GET' || method === 'HEAD'

const tokenOf = (request: FastifyRequest): string | undefined => {
  const token = isRead(request) ? (request.query as Record<string, unknown>).token : undefined
  return typeof token === 'string' ? token : undefined
}

/** Who calls, may they, how often, and is the server open: before a byte of the body is read. */
const admit = async (
  context: HttpContext,
  { scope, orNode }: Pick<Route<never>, 'scope' | 'orNode'>,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> => {
  if (scope === 'public') return
  if (scope === 'metrics' && isDirectLoopback(request.raw)) return
  if (scope === 'node' || (orNode && isSigned(request))) {
    requireOpen(context)
    return context.nodes?.admit(request)
  }
  const caller = await context.authenticate(request.raw, tokenOf(request))
  request.caller = caller
  requireScope(caller, scope === 'metrics' ? 'read' : scope)
  const rate = caller.bucket?.take()
  if (rate) {
    reply.headers(rateHeaders(rate))
    if (!rate.allowed)
      throw new BrambleError('rate_limited', {
        detail: `this key may send ${caller.quota.requestsPerSecond} requests a second`,
        retryAfterMs: rate.waitMs,
      })
  }
  requireOpen(context)
}

const requireOpen = ({ shutdown }: HttpContext): void => {
  if (shutdown.closing)
    throw new BrambleError('shutting_down', { detail: 'no new requests are taken', retryAfterMs: 1000 })
}

const ANONYMOUS: Caller = { tenant: 'default', keyId: 'none', scopes: [], quota: {} }

const serve = async <Context extends HttpContext>(
  context: Context,
  route: Route<Context>,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> => {
  if ((route.scope === 'node' && !route.upload) || (route.orNode && isSigned(request)))
    await context.nodes?.verify(request, hash('sha256', bytesOf(request), 'hex'))
  const controller = new AbortController()
  const givenKey = route.idempotent ? idempotencyKeyOf(request) : undefined
  const ofHandler = route.idempotent === 'by handler' && givenKey !== undefined
  const idempotencyKey = ofHandler ? undefined : givenKey
  let stream: EventStream | undefined
  const call: Call<unknown, unknown, unknown> & { note: (text: string) => void } = {
    params: route.params && parse(route.params, namedParameters(request)),
    query: parse(route.query ?? NO_PARAMETERS, withoutToken(request)),
    body: bodyOf(route, request),
    ...(ofHandler && { idempotency: { key: givenKey, digest: digestOf(request) } }),
    caller: request.caller ?? ANONYMOUS,
    signal: controller.signal,
    streaming: route.events !== undefined && (request.headers.accept?.includes('text/event-stream') ?? false),
    openStream: () => {
      stream = openEventStream(reply, {
        heartbeatMs: context.limits.heartbeatMs,
        stallTimeoutMs: context.limits.stallTimeoutMs,
        ...(context.countOutput && { countOutput: context.countOutput }),
      })
      return stream
    },
    note: () => {},
    request,
    reply,
  }
  if (idempotencyKey === undefined)
    reply.raw.on('close', () => {
      if (!reply.raw.writableFinished)
        controller.abort(new BrambleError('cancelled', { detail: 'the client closed the connection' }))
    })
  context.inFlight.add(controller)
  try {
    const answer =
      idempotencyKey === undefined
        ? await route.handle(call, context)
        : await once(context, route, call, reply, idempotencyKey)
    if (stream) return endStream(stream, reply)
    // Sent as a stream of bytes.
    if (reply.sent) return reply
    reply.code(answer.status)
    cutWhenStalled(reply.raw, context.limits.stallTimeoutMs)
    if (answer.text === undefined) return reply.send()
    const mediaType = answer.status < 400 ? (route.answer.mediaType ?? 'application/json') : 'application/problem+json'
    return reply.header('content-type', mediaType).send(answer.text)
  } catch (error) {
    if (!stream && !reply.sent) throw error
    const problem = problemOf(error, request.id)
    if (problem.status >= 500) request.log.error({ code: problem.code, err: error }, problem.detail)
    if (!stream) {
      // Too late to say why: what the client has is cut short, so that it does not take it for whole.
      reply.raw.destroy()
      return reply
    }
    await stream.send('error', JSON.stringify({ type: 'error', error: problem }))
    return endStream(stream, reply)
  } finally {
    context.inFlight.delete(controller)
    if (context.inFlight.size === 0) context.shutdown.idle?.()
  }
}

/** Runs the handler, or gives again what an earlier request under the same key got or is getting. */
const once = async <Context extends HttpContext>(
  context: Context,
  route: Route<Context>,
  call: Call<unknown, unknown, unknown> & { note: (text: string) => void },
  reply: FastifyReply,
  key: string,
): Promise<Answer> => {
  const { request } = call
  const outcome = await context.idempotency.run(
    {
      tenant: call.caller.tenant,
      route: `${route.method} ${request.url}`,
      key,
      fingerprint: digestOf(request),
    },
    (note) => {
      call.note = note
      return route.handle(call, context)
    },
  )
  if (!outcome.repeated) return outcome.answer
  reply.header('idempotent-replayed', 'true')
  if (!call.streaming || !route.replay) return outcome.answer()
  await route.replay(outcome, call, context)
  return { status: 200 }
}

const endStream = (stream: EventStream, reply: FastifyReply): FastifyReply => {
  stream.end()
  return reply
}

/** What `*` stands for is taken from the URL itself. */
const namedParameters = (request: FastifyRequest): unknown => {
  const { '*': _rest, ...named } = request.params as Record<string, unknown>
  return named
}

const withoutToken = (request: FastifyRequest): unknown => {
  if (!isRead(request)) return request.query
  const { token: _token, ...query } = request.query as Record<string, unknown>
  return query
}

const bodyOf = (route: Pick<Route<never>, 'body' | 'bodyOptional' | 'upload'>, request: FastifyRequest): unknown => {
  if (route.body && isUpload(route, request)) return undefined
  const bytes = bytesOf(request)
  if (route.body) return parse(route.body, bytes.length === 0 && route.bodyOptional ? {} : parseJson(bytes))
  if (bytes.length > 0) throw new BrambleError('invalid_request', { detail: 'this request has no body' })
  return undefined
}

const NO_BYTES = Buffer.alloc(0)

const bytesOf = (request: FastifyRequest): Buffer => (Buffer.isBuffer(request.body) ? request.body : NO_BYTES)

const digestOf = (request: FastifyRequest): string => hash('sha256', bytesOf(request), 'base64')

/** Whether the body comes as a stream of the route's own media types. */
export const isUpload = (route: Pick<Route<never>, 'upload'>, request: FastifyRequest): boolean => {
  const mediaType = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase()
  return mediaType !== undefined && (route.upload?.includes(mediaType) ?? false)
}

const idempotencyKeyOf = (request: FastifyRequest): string | undefined => {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key === 'string' && /^[\x21-\x7e]{1,255}$/.test(key)) return key
  throw new BrambleError('invalid_request', {
    detail: '`Idempotency-Key` is 1 to 255 printable ASCII characters without spaces',
  })
}
