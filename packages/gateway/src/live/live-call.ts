import type { InstanceLease } from '@bramble/engine'
import { type Caller, presentable } from '@bramble/http'
import { type ErrorCode, toBrambleError } from '@bramble/protocol'
import type { GatewayContext } from '../context.ts'
import type { LiveSocket } from './live-socket.ts'

/** What a kind of connection has to work with, before the client is answered. */
export interface LiveCall<Query = unknown> {
  readonly context: GatewayContext
  readonly caller: Caller
  readonly lease: InstanceLease
  readonly query: Query
  /** Aborts when the client goes before it is answered. */
  readonly signal: AbortSignal
}

/** A connection that can be made: whatever is wrong with the request was thrown before. */
export interface LiveConnection {
  /** Runs until nothing is left to do for the connection. What it throws is the node's fault. */
  run(socket: LiveSocket): Promise<void>
  /** The client went before it was answered. */
  abandon?(): void
}

/** The message that tells a client what is wrong; with the id of the command that it is about. */
export const errorMessage = (thrown: unknown, id?: string): string => {
  const { code, detail } = presentable(thrown)
  return errorText(code, detail, id)
}

export const errorText = (code: ErrorCode, message: string, id?: string): string =>
  JSON.stringify({ type: 'error', ...(id !== undefined && { id }), code, message })

/** The close code of an error: 4000 and its HTTP status. */
export const closeCodeOf = (thrown: unknown): number => 4000 + toBrambleError(thrown).status

/** A paused instance is resumed by what a client asks of it, as by any request; meanwhile the client is not heard. */
export const resumeThen = async (
  { context, caller, lease }: LiveCall,
  socket: LiveSocket,
  work: () => void,
): Promise<void> => {
  const release = socket.hold()
  try {
    const { signal } = socket
    using _resumed = await context.engine.instances.use(lease.id, caller.tenant, { signal })
    work()
  } finally {
    release()
  }
}

/** Resolves when the connection is over. */
export const untilClosed = ({ signal }: LiveSocket): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
