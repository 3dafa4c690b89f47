import type { ErrorCode, Scope } from '@bramble/protocol'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { z } from 'zod'
import type { Caller } from './auth.ts'
import type { Answer } from './idempotency.ts'
import type { EventStream } from './sse.ts'

/** One request after everything about it was checked. */
export interface Call<Params, Query, Body> {
  readonly params: Params
  readonly query: Query
  readonly body: Body
  readonly caller: Caller
  /**
   * Aborts when the client goes away, or the server has to end it. A request with an `Idempotency-Key` goes on without
   * its client, whose next try finds the answer.
   */
  readonly signal: AbortSignal
  /** Whether the client asked for `text/event-stream`, on a route that has events. */
  readonly streaming: boolean
  /** There where the client gave a key, and the handler is to heed it. */
  readonly idempotency?: { readonly key: string; readonly digest: string }
  /** Takes the reply over and streams; from here on errors are events. Once. */
  openStream(): EventStream
  /** Tells whoever repeats this request under its `Idempotency-Key` what it started. */
  note(text: string): void
  readonly request: FastifyRequest
  readonly reply: FastifyReply
}

/**
 * One row of the route table: what registers the route is what documents it. A handler returns the answer; where it
 * streamed instead it returns what it would have answered, for those who repeat the request.
 */
export interface Route<
  Context,
  Params extends z.ZodType = z.ZodType,
  Query extends z.ZodType = z.ZodType,
  Body extends z.ZodType = z.ZodType,
> {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** With `:name` for parameters, and `*` at the end for all that follows. */
  readonly path: string
  readonly tag: string
  readonly summary: string
  readonly description?: string
  /**
   * What the key must allow; `public` needs no key, `metrics` none from a loopback address and else `read`; `node` is signed by
   * a node (of an `upload`, its handler verifies).
   */
  readonly scope: Scope | 'public' | 'metrics' | 'node'
  /** Beside the keys that may: a node by its signature. */
  readonly orNode?: boolean
  readonly params?: Params
  readonly query?: Query
  readonly body?: Body
  /** No body is an empty object. */
  readonly bodyOptional?: boolean
  /** Media types taken as a stream instead of JSON (`*`: any): the handler reads `request.raw`, `body` is then undefined. */
  readonly upload?: readonly string[]
  readonly answer: {
    readonly status: number
    readonly description: string
    readonly schema?: z.ZodType
    /** Default `application/json`. */
    readonly mediaType?: string
  }
  /** The events of the stream that `Accept: text/event-stream` gets. */
  readonly events?: z.ZodType
  /** The JSON messages of a WebSocket, both ways. */
  readonly messages?: { readonly client: z.ZodType; readonly server?: z.ZodType }
  readonly errors: readonly ErrorCode[]
  /** Whether `Idempotency-Key` is heeded: by the memory of this server, or by the handler (`call.idempotency`). */
  readonly idempotent?: boolean | 'by handler'
  handle(call: Call<z.output<Params>, z.output<Query>, z.output<Body>>, context: Context): Promise<Answer>
  /**
   * How a repeated request is streamed: from what the first noted about itself (`call.note`), or from its answer, which
   * may take until the first has ended.
   */
  replay?(
    first: { note: string | undefined; answer: () => Promise<Answer> },
    call: Call<z.output<Params>, z.output<Query>, z.output<Body>>,
    context: Context,
  ): Promise<void>
}

/** How the routes of one kind of server are declared: each with the types of its schemas. */
export const routesOf =
  <Context>() =>
  <Params extends z.ZodType, Query extends z.ZodType, Body extends z.ZodType>(
    definition: Route<Context, Params, Query, Body>,
  ): Route<Context> =>
    definition as unknown as Route<Context>

/** An answer in JSON. */
export const json = (status: number, value: unknown): Answer => ({ status, text: JSON.stringify(value) })
