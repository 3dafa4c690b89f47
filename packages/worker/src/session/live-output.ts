import { isUtf8 } from 'node:buffer'
import { LIMITS, type WorkerFrame } from '@bramble/protocol'
import type { Held } from './holdings.ts'

/** As JSON text it is at most six times as long. */
const PIECE_BYTES = 32 * 1024

/** The frames of a piece of output, as much of it as `maxJobLogBytes` of its execution leaves. */
export function* outputFrames(
  held: Held,
  stream: 'stdout' | 'stderr',
  data: Uint8Array,
): Generator<Extract<WorkerFrame, { type: 'output' }>> {
  const { execution, token } = held.lease
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  for (let at = 0; at < bytes.length && held.outputBytes < LIMITS.maxJobLogBytes.value; at += PIECE_BYTES) {
    const left = LIMITS.maxJobLogBytes.value - held.outputBytes
    const piece = bytes.subarray(at, Math.min(at + PIECE_BYTES, at + left))
    held.outputBytes += piece.length
    const text = isUtf8(piece)
    yield {
      ...{ type: 'output', execution, token, stream },
      ...(text ? { data: piece.toString() } : { data: piece.toString('base64'), encoding: 'base64' }),
    }
  }
}
