import { z } from 'zod'
import { ERROR_CODES } from './errors.ts'
import { instanceStatusSchema } from './instances.ts'
import { encodingSchema } from './result.ts'
import { snapshotNameSchema } from './snapshots.ts'
import { argumentSchema, environmentSchema, pathSchema, userSchema } from './spec.ts'

/**
 * The messages of `WS /api/v1/containers/:id/stream`, one JSON object a frame.
 *
 * Commands run side by side, told apart by `id`: the client's own choice, unique among what runs in the instance, or the
 * server's where a message has none. `stdin`, `signal`, `resize` and `close_stdin` without an `id` go to the command that
 * this connection started last.
 *
 * Every event of a command, and every `custom` one, has a sequence number `seq`, counted by the instance, which goes on
 * over restarts of the node. Every connection sees them all. A client that connects with `?since=<seq>` gets what came
 * after, as long as it is kept (`keptStreamBytes`), else the error `window_passed`. What a connection asked for itself
 * (watches, `state`, `error`) has no `seq`: it asks again.
 */
const commandId = z
  .string()
  .min(1)
  .max(64)
  .regex(/^[\x21-\x7e]+$/, 'is not printable ASCII')
const data = { data: z.string(), encoding: encodingSchema.default('utf8') }
const size = z.number().int().min(1).max(10_000)
const ptySchema = z.strictObject({ cols: size.default(80), rows: size.default(24) })

export const streamCommandSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('exec'),
    id: commandId.optional(),
    command: z.union([
      argumentSchema.refine((text) => text.trim() !== '', 'is empty'),
      z.array(argumentSchema).min(1).max(4096),
    ]),
    env: environmentSchema,
    workdir: pathSchema.optional(),
    user: userSchema.optional(),
    /** Standard input is a pipe until `close_stdin`; else it is empty. */
    stdin: z.boolean().default(true),
    /** On a terminal: `stdout` has it all. */
    pty: ptySchema.optional(),
  }),
  z.strictObject({ type: z.literal('stdin'), id: commandId.optional(), ...data }),
  z.strictObject({ type: z.literal('close_stdin'), id: commandId.optional() }),
  /** A name (`SIGINT`, `INT`) or a number. */
  z.strictObject({
    type: z.literal('signal'),
    id: commandId.optional(),
    signal: z.union([z.string().max(16), z.number().int().min(1).max(64)]),
  }),
  z.strictObject({ type: z.literal('resize'), id: commandId.optional(), cols: size, rows: size }),
  z.strictObject({ type: z.literal('watch'), path: pathSchema, recursive: z.boolean().default(true) }),
  z.strictObject({ type: z.literal('unwatch'), path: pathSchema }),
  z.strictObject({ type: z.literal('get_state') }),
  /** Takes a snapshot; `name` and `memory` as in `snapshotRequestSchema`. The answer, or an error, has its `id`. */
  z.strictObject({
    type: z.literal('checkpoint'),
    id: commandId.optional(),
    name: snapshotNameSchema.optional(),
    memory: z.boolean().optional(),
  }),
  /** Stops the instance; the stream ends with its last `state`. */
  z.strictObject({ type: z.literal('stop') }),
])
export type StreamCommand = z.output<typeof streamCommandSchema>
export type StreamCommandInput = z.input<typeof streamCommandSchema>

const seq = { seq: z.number().int().min(1) }
const chunk = { ...seq, id: z.string(), data: z.string(), encoding: encodingSchema.optional() }

export const streamEventSchema = z.discriminatedUnion('type', [
  z.object({ ...seq, type: z.literal('started'), id: z.string(), pid: z.number().int() }),
  z.object({ type: z.literal('stdout'), ...chunk }),
  z.object({ type: z.literal('stderr'), ...chunk }),
  /** `code` as in an execution's result: 128+n for signal n, 127 and 126 for what did not start (then with `message`). */
  z.object({
    ...seq,
    type: z.literal('exit'),
    id: z.string(),
    code: z.number().int(),
    signal: z.string().optional(),
    message: z.string().optional(),
  }),
  /** `event: overflow`: some were missed; `path` is the watched one. `to` is where a `move` went, inside the watched tree. */
  z.object({
    type: z.literal('file_event'),
    path: z.string(),
    encoding: encodingSchema.optional(),
    event: z.enum(['create', 'modify', 'delete', 'move', 'overflow']),
    to: z.string().optional(),
    isDirectory: z.boolean().optional(),
  }),
  z.object({
    type: z.literal('process_event'),
    pid: z.number().int(),
    parentPid: z.number().int().optional(),
    command: z.string(),
    event: z.enum(['start', 'exit']),
  }),
  z.object({
    type: z.literal('port_event'),
    port: z.number().int(),
    address: z.string(),
    event: z.enum(['open', 'close']),
  }),
  z.object({ ...seq, type: z.literal('custom'), name: z.string(), data: z.unknown() }),
  z.object({ type: z.literal('heartbeat'), at: z.string() }),
  /**
   * First of every connection, on each change, and as the answer to `get_state`. `seq`: the last that this connection has
   * been sent, or had before. `window`: the numbers that the instance keeps, so that `since: first - 1` asks for all of them
   * and everything up to `last` is still to come; the first of nothing yet is one more than the last.
   */
  z.object({
    type: z.literal('state'),
    instanceId: z.string(),
    status: z.union([instanceStatusSchema, z.literal('deleted')]),
    reason: z.string().optional(),
    seq: z.number().int(),
    window: z.object({ first: z.number().int(), last: z.number().int() }),
    commands: z.array(z.object({ id: z.string(), pid: z.number().int().optional(), pty: z.boolean() })),
    watches: z.array(z.string()),
  }),
  z.object({ type: z.literal('checkpoint'), id: z.string().optional(), snapshotId: z.string() }),
  /** About the message that caused it (`id` where it had one); the connection goes on, unless it is closed after it. */
  z.object({ type: z.literal('error'), id: z.string().optional(), code: z.enum(ERROR_CODES), message: z.string() }),
])
export type StreamEvent = z.infer<typeof streamEventSchema>

/** The query of the stream and of the terminal. */
export const streamQuerySchema = z.strictObject({
  since: z.coerce.number().int().min(0).optional(),
  token: z.string().optional(),
  /** `true`: processes and ports are watched for this connection. */
  processes: z
    .enum(['true', 'false'])
    .default('true')
    .transform((text) => text === 'true'),
})
/**
 * `WS …/pty`: binary frames are the terminal's bytes, both ways; text frames are JSON. The first frame of the server is
 * `{"type":"session","id"}`; with `?session=<id>` a client that lost its connection goes on (within `ptyKeepMs`).
 * Client: `{"type":"resize","cols","rows"}`; server: `{"type":"exit","code"}`, then the connection closes.
 */
export const ptyQuerySchema = z.strictObject({
  cols: z.coerce.number().pipe(size).default(80),
  rows: z.coerce.number().pipe(size).default(24),
  cmd: argumentSchema.optional(),
  user: userSchema.optional(),
  workdir: pathSchema.optional(),
  session: commandId.optional(),
  token: z.string().optional(),
})
/**
 * `WS …/tunnel/:port`: binary frames are the bytes of a TCP connection, both ways. The client ends its own direction with the text
 * frame `{"type":"end"}` and still gets what comes; closing ends both. The server closes (1000) when the other side has ended.
 */
export const tunnelQuerySchema = z.strictObject({ token: z.string().optional() })
export const ptyControlSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('resize'), cols: size, rows: size }),
  z.strictObject({ type: z.literal('signal'), signal: z.union([z.string().max(16), z.number().int().min(1).max(64)]) }),
])
