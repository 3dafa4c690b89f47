/** The frames of `packages/agent/FRAMES.md`, as bytes. */

export const FRAME = {
  exec: 0x01,
  stdin: 0x02,
  stdinEof: 0x03,
  credit: 0x04,
  signal: 0x05,
  connect: 0x08,
  resize: 0x09,
  ack: 0x0a,
  park: 0x0b,
  resume: 0x0c,
  discard: 0x06,
  ping: 0x07,
  hello: 0x80,
  started: 0x81,
  stdout: 0x82,
  stderr: 0x83,
  stdinCredit: 0x84,
  exit: 0x85,
  failed: 0x86,
  pong: 0x87,
  refused: 0x88,
  channel: 0x89,
  event: 0x8a,
  parked: 0x8b,
  resumed: 0x8c,
} as const

export const PROTOCOL_VERSION = 2
export const HEADER_BYTES = 12
export const PAYLOAD_BYTES_MAX = 1024 * 1024

export const REFUSED_TOO_MANY_CHANNELS = 5
const NAME_BYTES_MAX = 64
const ENTRY_BYTES_MAX = 128 * 1024
const FLAG_KEPT = 1
export const PARK_TOKEN_BYTES = 16

/** What a frame of the agent may be long. Output is handed on in pieces; everything else is small, and whole. */
const PAYLOAD_BYTES: Readonly<Record<number, readonly [min: number, max: number]>> = {
  [FRAME.hello]: [28, 28],
  [FRAME.started]: [4, 4],
  [FRAME.stdout]: [0, PAYLOAD_BYTES_MAX],
  [FRAME.stderr]: [0, PAYLOAD_BYTES_MAX],
  [FRAME.stdinCredit]: [4, 4],
  [FRAME.exit]: [28, 28],
  [FRAME.failed]: [5, 1024],
  [FRAME.pong]: [0, 64],
  [FRAME.refused]: [4, 4],
  [FRAME.channel]: [10, 9 + NAME_BYTES_MAX],
  [FRAME.parked]: [0, 0],
  [FRAME.resumed]: [1, 1],
}
/** Entries of the log: whole, with the name of whose they are before what they say. */
const ENTRY_TYPES: readonly number[] = [
  FRAME.started,
  FRAME.stdout,
  FRAME.stderr,
  FRAME.exit,
  FRAME.failed,
  FRAME.event,
]

/**
 * Called for each frame, or for each piece of an output frame that is no entry of the log as it arrives. The payload of an
 * entry (`kept`) is its taker's to keep; any other is a view of the chunk that was read wherever it can be, and good until
 * the next one is.
 */
export type OnFrame = (type: number, channel: number, payload: Buffer, kept: boolean) => void

/** Takes chunks as they come; throws `Error` with what is wrong when they are not frames of an agent. */
export type FrameReader = (chunk: Buffer) => void

const entryBounds = (type: number): readonly [number, number] | undefined =>
  ENTRY_TYPES.includes(type) ? [1, ENTRY_BYTES_MAX] : undefined

export const createFrameReader = (onFrame: OnFrame): FrameReader => {
  const header = Buffer.alloc(HEADER_BYTES)
  let headerBytes = 0
  let type = 0
  let channel = 0
  let kept = false
  /** Bytes of the present payload that are still to come. */
  let left = 0
  let small: Buffer | undefined
  let smallBytes = 0

  const begin = (source: Buffer, at: number): void => {
    left = source.readUInt32LE(at)
    const word = source.readUInt32LE(at + 4)
    kept = word >>> 8 === FLAG_KEPT
    type = kept ? word & 0xff : word
    channel = source.readUInt32LE(at + 8)
    const bounds = kept ? entryBounds(type) : PAYLOAD_BYTES[type]
    if (bounds === undefined) throw new Error(`a frame of unknown type 0x${type.toString(16)}`)
    if (left < bounds[0] || left > bounds[1])
      throw new Error(`a frame of type 0x${type.toString(16)} with ${left} bytes`)
  }

  const takePayload = (chunk: Buffer, at: number): number => {
    const end = Math.min(at + left, chunk.length)
    const bytes = end - at
    const whole = bytes === left
    left -= bytes
    if (!kept && (type === FRAME.stdout || type === FRAME.stderr)) {
      if (bytes > 0) onFrame(type, channel, chunk.subarray(at, end), kept)
    } else if (small === undefined && whole) {
      const payload = chunk.subarray(at, end)
      onFrame(type, channel, kept ? Buffer.from(payload) : payload, kept)
    } else {
      small ??= Buffer.allocUnsafe(bytes + left)
      chunk.copy(small, smallBytes, at, end)
      smallBytes += bytes
      if (whole) {
        const payload = small
        small = undefined
        smallBytes = 0
        onFrame(type, channel, payload, kept)
      }
    }
    return end
  }

  return (chunk) => {
    let at = 0
    while (at < chunk.length) {
      if (left === 0) {
        if (headerBytes === 0 && chunk.length - at >= HEADER_BYTES) {
          begin(chunk, at)
          at += HEADER_BYTES
        } else {
          const copied = chunk.copy(header, headerBytes, at, at + HEADER_BYTES - headerBytes)
          headerBytes += copied
          at += copied
          if (headerBytes < HEADER_BYTES) return
          headerBytes = 0
          begin(header, 0)
        }
        if (left === 0) onFrame(type, channel, chunk.subarray(at, at), kept)
      }
      if (left > 0) at = takePayload(chunk, at)
    }
  }
}

/** A frame with room for its payload, which starts at `HEADER_BYTES`. */
export const allocFrame = (type: number, channel: number, payloadBytes: number): Buffer => {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payloadBytes)
  frame.writeUInt32LE(payloadBytes, 0)
  frame.writeUInt32LE(type, 4)
  frame.writeUInt32LE(channel, 8)
  return frame
}

export const emptyFrame = (type: number, channel: number): Buffer => allocFrame(type, channel, 0)

export const byteFrame = (type: number, channel: number, value: number): Buffer => {
  const frame = allocFrame(type, channel, 1)
  frame.writeUInt8(value, HEADER_BYTES)
  return frame
}

export const creditFrame = (channel: number, stream: 1 | 2, bytes: number): Buffer => {
  const frame = allocFrame(FRAME.credit, channel, 5)
  frame.writeUInt8(stream, HEADER_BYTES)
  frame.writeUInt32LE(bytes, HEADER_BYTES + 1)
  return frame
}

export const connectFrame = (channel: number, port: number, host: string): Buffer => {
  const frame = allocFrame(FRAME.connect, channel, 2 + Buffer.byteLength(host))
  frame.writeUInt16LE(port, HEADER_BYTES)
  frame.write(host, HEADER_BYTES + 2)
  return frame
}

export const ackFrame = (seq: number): Buffer => {
  const frame = allocFrame(FRAME.ack, 0, 8)
  frame.writeBigUInt64LE(BigInt(seq), HEADER_BYTES)
  return frame
}

export const dataFrame = (type: number, channel: number, data: Uint8Array): Buffer => {
  const frame = allocFrame(type, channel, data.length)
  frame.set(data, HEADER_BYTES)
  return frame
}

export const resizeFrame = (channel: number, cols: number, rows: number): Buffer => {
  const frame = allocFrame(FRAME.resize, channel, 4)
  frame.writeUInt16LE(cols, HEADER_BYTES)
  frame.writeUInt16LE(rows, HEADER_BYTES + 2)
  return frame
}
