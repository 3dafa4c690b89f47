import type { Socket } from 'node:net'
import type { Duplex, Writable } from 'node:stream'
import { cutoff } from '@bramble/engine'
import type { ServerChannel } from 'ssh2'

/** Bytes that may wait in a connection's socket: a client may grant more window than it reads. */
const MAX_WAITING_BYTES = 1024 * 1024

/** A channel, and what its writers wait for. */
export interface ChannelIo {
  readonly channel: ServerChannel
  /** Aborts when the channel, or its connection, is closed. */
  readonly signal: AbortSignal
  /** Resolves when it was taken: by the client's window, and nearly so by its socket. Rejects once it is closed. */
  write(stream: Writable, data: Uint8Array): Promise<void>
}

export const channelIo = (channel: ServerChannel, socket: Socket): ChannelIo => {
  const closed = new AbortController()
  const { cut, wait } = cutoff()
  const close = (): void => {
    if (closed.signal.aborted) return
    closed.abort(new Error('the channel is closed'))
    cut(closed.signal.reason)
  }
  channel.on('close', close)
  channel.on('error', close)
  channel.stderr?.on('error', close)
  socket.once('close', close)
  closed.signal.addEventListener('abort', () => socket.off('close', close), { once: true })
  return {
    channel,
    signal: closed.signal,
    write: async (stream, data) => {
      closed.signal.throwIfAborted()
      // A channel that closes never calls back.
      await wait(taken(stream, data))
      forgetRest(channel)
      if (socket.writableLength > MAX_WAITING_BYTES) await wait(drained(socket))
    },
  }
}

const taken = (stream: Writable, data: Uint8Array): Promise<void> =>
  new Promise((resolve, reject) => {
    stream.write(data, (error) => (error ? reject(error) : resolve()))
  })

const drained = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    if (socket.writableNeedDrain) socket.once('drain', resolve)
    else resolve()
  })

/**
 * What waited for the window stays in the channel of ssh2 after it went out, and goes out again when the other of its two
 * streams waits (`CHANNEL_WINDOW_ADJUST` in its server).
 */
const forgetRest = (channel: ServerChannel): void => {
  const inside = channel as unknown as Record<'_chunk' | '_chunkcb' | '_chunkErr' | '_chunkcbErr', undefined>
  inside._chunk = undefined
  inside._chunkcb = undefined
  inside._chunkErr = undefined
  inside._chunkcbErr = undefined
}

/** Says that no more comes, and goes on reading: `end` would close both directions of a server's channel. */
export const endWriting = (channel: ServerChannel): void => (channel as unknown as { eof(): void }).eof()

/** The end of one direction is not the end of the other. */
export const KEEP = { destroyOnReturn: false }

/** Joins a channel with a stream until both directions have ended, or either breaks. Never rejects. */
export const joinChannel = async (io: ChannelIo, stream: Duplex): Promise<void> => {
  const { channel } = io
  stream.on('error', () => stream.destroy())
  const abort = (): void => void stream.destroy()
  io.signal.addEventListener('abort', abort, { once: true })
  const out = async (): Promise<void> => {
    for await (const data of stream.iterator(KEEP)) await io.write(channel, data as Buffer)
    endWriting(channel)
  }
  const into = async (): Promise<void> => {
    for await (const data of channel.iterator(KEEP)) {
      if (stream.write(data)) continue
      await new Promise<void>((resolve) => {
        const go = (): void => {
          stream.off('drain', go)
          stream.off('close', go)
          resolve()
        }
        stream.on('drain', go).on('close', go)
      })
    }
    stream.end()
  }
  try {
    await Promise.all([out(), into()])
  } catch {
    // Either side broke: both end.
  } finally {
    io.signal.removeEventListener('abort', abort)
    stream.destroy()
    channel.end()
    channel.close()
  }
}
