import type { EventStream } from '@bramble/http'
import { bufferPool } from './buffer-pool.ts'
import { escapeJson, MAX_ESCAPED_BYTES } from './escape-json.ts'
import type { OutputPiece } from './output-pieces.ts'
import { base64Bytes, writeBase64 } from './write-base64.ts'

/** What stands around an event's JSON. ASCII. */
export type Wrap = readonly [before: string, after: string]

/** One pool for each stream, which goes with it. */
const pools = new WeakMap<EventStream, ReturnType<typeof bufferPool>>()

const poolOf = (stream: EventStream): ReturnType<typeof bufferPool> => {
  const known = pools.get(stream)
  if (known) return known
  const pool = bufferPool()
  pools.set(stream, pool)
  return pool
}

/** Writes one event of output, as JSON that is made in the buffer it is sent from. */
export const sendOutput = (
  stream: EventStream,
  type: 'stdout' | 'stderr',
  piece: OutputPiece,
  [before, after]: Wrap,
): Promise<void> | undefined => {
  if (stream.closed) return undefined
  const buffers = poolOf(stream)
  const start = `${stream.head(type)}${before}{"type":"${type}",${piece.text ? '' : '"encoding":"base64",'}"data":"`
  const end = `"}${after}\n\n`
  const { bytes } = piece
  const dataBytes = piece.text ? bytes.length * MAX_ESCAPED_BYTES : base64Bytes(bytes.length)
  const buffer = buffers.take(start.length + dataBytes + end.length)
  let at = buffer.write(start, 0, 'latin1')
  at = piece.text ? escapeJson(bytes, buffer, at) : writeBase64(bytes, buffer, at)
  at += buffer.write(end, at, 'latin1')
  return stream.write(buffer.subarray(0, at), () => buffers.give(buffer))
}
