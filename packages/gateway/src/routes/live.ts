import type { Route } from '@bramble/http'
import {
  BrambleError,
  instanceParamsSchema,
  portParamsSchema,
  ptyControlSchema,
  ptyQuerySchema,
  type Scope,
  streamCommandSchema,
  streamEventSchema,
  streamQuerySchema,
  tunnelQuerySchema,
} from '@bramble/protocol'
import type { z } from 'zod'
import type { GatewayContext } from '../context.ts'
import { route } from '../route.ts'

/** What a WebSocket's path answers to a request that asks for none; and its row in the API's description. */
const webSocket = (
  path: string,
  summary: string,
  description: string,
  scope: Scope,
  params: z.ZodType,
  query: z.ZodType,
  messages?: NonNullable<Route<GatewayContext>['messages']>,
) =>
  route({
    method: 'GET',
    path,
    tag: 'live',
    summary,
    description: `A WebSocket. ${description} It closes with 4000 and the status of the error that ended it: 4404 deleted, 4408 for a client that takes nothing. 1012: the node restarts; connect again.`,
    scope,
    params,
    query,
    ...(messages && { messages }),
    answer: { status: 101, description: 'The connection goes on as a WebSocket (RFC 6455)' },
    errors: ['not_found', 'conflict', 'instance_stopped', 'quota_exceeded', 'port_closed'],
    handle: async () => {
      throw new BrambleError('invalid_request', { detail: 'this is a WebSocket: connect with `Upgrade: websocket`' })
    },
  })

const STREAM = 'One JSON message a text frame, both ways. `since` is the last `seq` that was seen.'
const stream = (kind: 'instances' | 'containers') =>
  webSocket(
    `/api/v1/${kind}/:id/stream`,
    'Commands, output and events of an instance, as they happen',
    STREAM,
    'read',
    instanceParamsSchema,
    streamQuerySchema,
    { client: streamCommandSchema, server: streamEventSchema },
  )

const pty = (kind: 'instances' | 'containers') =>
  webSocket(
    `/api/v1/${kind}/:id/pty`,
    'A terminal in an instance',
    'Binary frames are its bytes, both ways; text frames are JSON. `session` goes on with one whose client vanished less than a minute ago; a client that closes with 1000 ends it.',
    'execute',
    instanceParamsSchema,
    ptyQuerySchema,
    { client: ptyControlSchema },
  )

const tunnel = (kind: 'instances' | 'containers') =>
  webSocket(
    `/api/v1/${kind}/:id/tunnel/:port`,
    'A TCP connection to a port in an instance',
    'Binary frames are its bytes, both ways. The text frame `{"type":"end"}` ends the direction of the client.',
    'execute',
    portParamsSchema,
    tunnelQuerySchema,
  )

const KINDS = ['instances', 'containers'] as const
export const liveRoutes = KINDS.flatMap((kind) => [stream(kind), pty(kind), tunnel(kind)])
