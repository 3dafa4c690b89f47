import { mayDo } from '@bramble/http'
import type { InstanceStatus, streamQuerySchema } from '@bramble/protocol'
import { BrambleError } from '@bramble/protocol'
import type { z } from 'zod'
import { closeCodeOf, errorMessage, errorText, type LiveCall, type LiveConnection, untilClosed } from './live-call.ts'
import { CLOSE, type LiveSocket } from './live-socket.ts'
import { streamCommands } from './stream-commands.ts'
import { streamWriter } from './stream-writer.ts'
import { watches } from './watches.ts'

export type StreamCall = LiveCall<z.output<typeof streamQuerySchema>>

/** What is told of an instance; `deleted` where it is not there any more. */
export interface KnownState {
  status: InstanceStatus | 'deleted'
  reason?: string | undefined
}

/** The streaming API of an instance (`protocol/src/stream.ts`). */
export const prepareStream = (call: StreamCall): LiveConnection => ({ run: (socket) => runStream(call, socket) })

const runStream = async (call: StreamCall, socket: LiveSocket): Promise<void> => {
  const { lease, caller, context } = call
  const { instances } = context.engine
  const { stream } = lease
  const over = new AbortController()
  socket.signal.addEventListener('abort', () => over.abort(), { once: true })
  const { signal } = over

  const known: KnownState = { status: 'running' }
  /** Up to here the client has, or was sent, all of it. */
  const sent = { seq: 0 }
  const watched = watches({
    lease,
    socket,
    signal,
    onChange: () => sendState(),
    onFailure: (error) => failInside(error),
  })
  const sendState = (): Promise<void> | undefined =>
    socket.send(
      JSON.stringify({
        type: 'state',
        instanceId: lease.id,
        ...known,
        seq: sent.seq,
        window: { first: stream.firstSeq, last: stream.seq },
        commands: [...stream.commands.values()].map(({ name, pid, pty }) => ({ id: name, pid, pty })),
        watches: watched.ready(),
      }),
    )
  let looking: Promise<void> = Promise.resolve()
  const look = async (): Promise<void> => {
    try {
      const { status, reason } = await instances.get(lease.id, caller.tenant)
      Object.assign(known, { status, reason })
    } catch (error) {
      // Gone, or not to be known now: `ended` tells.
      if (!(error instanceof BrambleError)) throw error
    }
  }
  /** A program that looks for this stream ended. With the whole instance it does, and that is told by the state. */
  const failInside = async (error: unknown): Promise<void> => {
    await look()
    if (known.status === 'running' && !signal.aborted) void socket.send(errorMessage(error))
  }
  const onState = (): void => {
    looking = looking.then(look).then(() => {
      if (!signal.aborted) sendState()
    })
  }
  const fail = (error: unknown): void => {
    void socket.send(errorMessage(error))
    socket.close(closeCodeOf(error), error instanceof BrambleError ? error.code : 'internal')
  }
  const heartbeat = setInterval(() => {
    void socket.send(`{"type":"heartbeat","at":"${new Date().toISOString()}"}`)
  }, context.limits.heartbeatMs)
  stream.events.on('state', onState)
  try {
    await look()
    sent.seq = Math.min(call.query.since ?? stream.seq, stream.seq)
    sendState()
    const commands = streamCommands({ call, socket, watched, known, sendState, mayAct: mayDo(caller, 'execute') })
    socket.receive(commands)
    const entries = followEntries(call, socket, sent, signal, fail)
    if (call.query.processes) void followObserved(call, socket, signal, failInside)

    const end = await Promise.race([lease.ended, untilClosed(socket).then(() => undefined)])
    if (!end) return
    // What came before the end comes before it here too.
    await entries
    await looking
    Object.assign(known, end)
    if (end.status === 'stopped' && end.reason !== undefined) void socket.send(errorText('sandbox_died', end.reason))
    sendState()
    if (end.status === 'deleted') socket.close(CLOSE.ofStatus(404), 'the instance was deleted')
    else socket.close(CLOSE.normal, `the instance is ${end.status}`)
  } finally {
    clearInterval(heartbeat)
    stream.events.off('state', onState)
    over.abort()
  }
}

const followEntries = async (
  { lease, query }: StreamCall,
  socket: LiveSocket,
  sent: { seq: number },
  signal: AbortSignal,
  fail: (error: unknown) => void,
): Promise<void> => {
  const { stream } = lease
  const since = sent.seq
  // From the beginning of what is kept, so that a character comes whole that was half there when the client left.
  const from = query.since === undefined ? since : Math.min(since, stream.firstSeq - 1)
  const writer = streamWriter(socket)
  try {
    for await (const entry of stream.read({ since: from, signal, onCutOff: fail })) {
      if (entry.seq <= since) {
        writer.skip(entry)
        continue
      }
      const wait = writer.write(entry)
      sent.seq = entry.seq
      if (wait) await wait
    }
  } catch (error) {
    if (!signal.aborted && !isDeath(error)) fail(error)
  }
}

/** The end of the sandbox is told by its state. */
const isDeath = (error: unknown): boolean => error instanceof BrambleError && error.code === 'sandbox_died'

const followObserved = async (
  { lease }: StreamCall,
  socket: LiveSocket,
  signal: AbortSignal,
  onFailure: (error: unknown) => Promise<void>,
): Promise<void> => {
  try {
    for await (const change of lease.observe({ signal })) {
      const { type, ...rest } = change
      const wait = socket.send(JSON.stringify({ type: `${type}_event`, ...rest }))
      if (wait) await wait
    }
  } catch (error) {
    if (!signal.aborted && !isDeath(error)) await onFailure(error)
  }
}
