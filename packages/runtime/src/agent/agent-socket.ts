import { Duplex } from 'node:stream'
import { getSystemErrorMessage } from 'node:util'
import { BrambleError } from '@bramble/protocol'
import { WINDOW_BYTES } from './agent-process.ts'
import { connectFrame, creditFrame, FRAME } from './frames.ts'
import { parseFailed } from './process-frames.ts'
import { createProcessInput } from './process-input.ts'

/** Credit is given back in portions, so that it costs few frames. */
const CREDIT_PORTION_BYTES = WINDOW_BYTES / 4
const READABLE_BYTES = 256 * 1024
const SIGKILL = 9

export interface SocketSink {
  readonly opened: Promise<Duplex>
  onFrame(type: number, payload: Buffer): void
  fail(error: Error): void
  /** Gives up: the agent is asked to end it. */
  cancel(error: Error): void
}

export interface SocketDeps {
  readonly channel: number
  readonly host: string
  readonly port: number
  send(frame: Buffer): void
  onClosed(): void
}

/** The host's end of a TCP connection that the agent made (`CONNECT`). Half-closes; has back-pressure both ways. */
export const createAgentSocket = ({ channel, host, port, send, onClosed }: SocketDeps): SocketSink => {
  const input = createProcessInput({ channel, send })
  const opened = Promise.withResolvers<Duplex>()
  opened.promise.catch(() => {})
  let connected = false
  let credit = WINDOW_BYTES
  let taken = 0
  let readEnded = false

  const giveBack = (): void => {
    if (!input.open || readEnded || taken < CREDIT_PORTION_BYTES) return
    credit += taken
    send(creditFrame(channel, 1, taken))
    taken = 0
  }
  const hangUp = (): void => {
    if (input.open) input.kill(SIGKILL)
  }
  const stream = new Duplex({
    allowHalfOpen: true,
    readableHighWaterMark: READABLE_BYTES,
    writableHighWaterMark: READABLE_BYTES,
    read: giveBack,
    write: (chunk: Buffer, _encoding, done) => {
      if (input.writeNow(chunk)) done()
      else input.write(chunk).then(() => done(), done)
    },
    final: (done) => {
      input.end()
      done()
    },
    destroy: (error, done) => {
      hangUp()
      done(error)
    },
  })
  // It may break before whoever asked for it can listen, or when they have given up: that must not end the process.
  stream.on('error', () => {})

  const close = (error?: Error): void => {
    input.close(error)
    onClosed()
  }
  const endReading = (): void => {
    if (readEnded) return
    readEnded = true
    stream.push(null)
  }
  const onData = (data: Buffer): void => {
    if (data.length === 0) {
      endReading()
      return
    }
    credit -= data.length
    if (credit < 0 || readEnded) throw new Error(`${data.length} bytes of a connection past its credit or its end`)
    taken += data.length
    if (stream.destroyed) return
    // A copy: the chunk that it came in is read into again.
    if (stream.push(Buffer.from(data))) giveBack()
  }

  send(connectFrame(channel, port, host))
  send(creditFrame(channel, 1, WINDOW_BYTES))
  return {
    opened: opened.promise,
    onFrame: (type, payload) => {
      if (type === FRAME.stdinCredit) input.onCredit(payload.readUInt32LE(0))
      else if (type === FRAME.failed) {
        if (connected) throw new Error('FAILED after STARTED')
        const { errno } = parseFailed(payload)
        close()
        const detail = `port ${port}: ${errno === 0 ? 'no connection' : getSystemErrorMessage(-errno)}`
        opened.reject(new BrambleError('port_closed', { detail }))
      } else if (type === FRAME.started) {
        if (connected) throw new Error('a second STARTED')
        connected = true
        opened.resolve(stream)
      } else if (!connected) throw new Error('a connection that has not begun')
      else if (type === FRAME.stdout) onData(payload)
      else if (type === FRAME.exit) {
        close()
        endReading()
        stream.end()
      } else throw new Error(`a frame of type 0x${type.toString(16)} on a connection's channel`)
    },
    fail: (error) => {
      close(error)
      opened.reject(error)
      stream.destroy(error)
    },
    cancel: (error) => {
      opened.reject(error)
      stream.destroy()
    },
  }
}
