import { parseJson } from '@bramble/http'
import { BrambleError, parse, type StreamCommand, streamCommandSchema } from '@bramble/protocol'
import { instanceContext } from '../routes/instances.ts'
import { errorMessage, resumeThen } from './live-call.ts'
import type { LiveSocket } from './live-socket.ts'
import { pendingInput } from './pending-input.ts'
import type { KnownState, StreamCall } from './stream-connection.ts'
import { signalNumber } from './stream-writer.ts'
import type { Watches } from './watches.ts'

export interface StreamCommandsOptions {
  readonly call: StreamCall
  readonly socket: LiveSocket
  readonly watched: Watches
  readonly known: Readonly<KnownState>
  readonly sendState: () => Promise<void> | undefined
  /** Whether the caller may do more than look. */
  readonly mayAct: boolean
}

/** What only looks: a key without the scope `execute` may send it. */
const LOOKS: readonly StreamCommand['type'][] = ['get_state', 'watch', 'unwatch']
/** What a paused instance is not resumed for. */
const STANDS: readonly StreamCommand['type'][] = ['checkpoint', 'stop']

/** Does what the messages of one connection ask for, in their order. What is wrong with one is told; the connection goes on. */
export const streamCommands = (options: StreamCommandsOptions): ((data: Buffer, binary: boolean) => void) => {
  const { call, socket, watched, known, sendState, mayAct } = options
  const { lease, caller, context } = call
  const { stream } = lease
  const { instances, snapshots } = context.engine
  const input = pendingInput(socket, context.limits.livePendingBytes)
  let last: string | undefined

  const commandOf = (id: string | undefined) => {
    const name = id ?? last
    const command = name === undefined ? undefined : stream.commands.get(name)
    if (command) return command
    const detail = name === undefined ? 'this connection started no command' : `no command \`${name}\` runs`
    throw new BrambleError('not_found', { detail })
  }
  const inBackground = (work: Promise<unknown>, id?: string): void => {
    work.catch((error: unknown) => socket.send(errorMessage(error, id)))
  }

  let stopping = false
  /** However often the client says so, it is asked for once at a time. */
  const stop = (): void => {
    if (stopping) return
    stopping = true
    inBackground(
      instances.stop(lease.id, caller.tenant).finally(() => {
        stopping = false
      }),
    )
  }

  let checkpointing = false
  /** One at a time: each is written to the store, and a client could ask faster than that goes. */
  const checkpoint = async ({ id, name, memory }: Extract<StreamCommand, { type: 'checkpoint' }>): Promise<void> => {
    if (checkpointing) throw new BrambleError('conflict', { detail: 'a checkpoint of this connection is under way' })
    checkpointing = true
    try {
      const request = { labels: {}, ...(name !== undefined && { name }), ...(memory !== undefined && { memory }) }
      const { id: snapshotId } = await snapshots.take(lease.id, request, instanceContext(caller, socket.signal))
      await socket.send(JSON.stringify({ type: 'checkpoint', ...(id !== undefined && { id }), snapshotId }))
    } finally {
      checkpointing = false
    }
  }

  const perform = (command: StreamCommand): void => {
    switch (command.type) {
      case 'exec':
        last = stream.start(command).name
        break
      case 'stdin':
        input.write(commandOf(command.id), inputBytes(command))
        break
      case 'close_stdin':
        commandOf(command.id).end()
        break
      case 'signal':
        commandOf(command.id).kill(signalNumber(command.signal))
        break
      case 'resize':
        commandOf(command.id).resize({ cols: command.cols, rows: command.rows })
        break
      case 'watch':
        watched.add(command.path, command.recursive)
        break
      case 'unwatch':
        watched.remove(command.path)
        break
      case 'get_state':
        holdWhile(socket, sendState())
        break
      case 'checkpoint':
        inBackground(checkpoint(command), command.id)
        break
      case 'stop':
        stop()
        break
      default:
        command satisfies never
    }
  }

  return (data, binary) => {
    let id: string | undefined
    const attempt = (work: () => void): void => {
      try {
        work()
      } catch (error) {
        holdWhile(socket, socket.send(errorMessage(error, id)))
      }
    }
    attempt(() => {
      if (binary) throw new BrambleError('invalid_request', { detail: 'messages are JSON in text frames' })
      const message = parseJson(data)
      id = idOf(message)
      const command = parse(streamCommandSchema, message)
      const looks = LOOKS.includes(command.type)
      if (!looks && !mayAct)
        throw new BrambleError('forbidden', { detail: `\`${command.type}\` needs the scope \`execute\`` })
      if (known.status !== 'paused' || looks || STANDS.includes(command.type)) return perform(command)
      inBackground(resumeThen(call, socket, () => attempt(() => perform(command))))
    })
  }
}

/** Whoever does not take the answers is not asked for more. */
const holdWhile = (socket: LiveSocket, wait: Promise<void> | undefined): void => {
  if (!wait) return
  const release = socket.hold()
  void wait.then(release)
}

const idOf = (message: unknown): string | undefined => {
  const id = (message as { id?: unknown } | null)?.id
  return typeof id === 'string' && id.length <= 64 ? id : undefined
}

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

const inputBytes = ({ data, encoding }: Extract<StreamCommand, { type: 'stdin' }>): Buffer => {
  if (encoding === 'utf8' || BASE64.test(data)) return Buffer.from(data, encoding)
  const message = 'is not base64'
  throw new BrambleError('invalid_request', { detail: `\`data\`: ${message}`, issues: [{ path: 'data', message }] })
}
