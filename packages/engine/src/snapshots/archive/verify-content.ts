import { createHash } from 'node:crypto'
import { type BlobStore, contentReader } from '@bramble/blobs'
import { BrambleError, type Content } from '@bramble/protocol'
import { refused } from './tar.ts'

const EMPTY = createHash('sha256').digest('hex')
/** Of bytes that are not what their names say, in whatever way that shows. */
const DAMAGED = ['blob_corrupt', 'blob_not_found', 'range_not_satisfiable']

export type VerifyContent = (content: Content, what: string) => Promise<void>

/**
 * Reads each content from the store, where its blobs are by now, so that what is taken in can be read later. Holes cost as much
 * as bytes: all contents together have at most `maxBytes`.
 */
export const makeContentCheck = (store: BlobStore, maxBytes: number, signal?: AbortSignal): VerifyContent => {
  const reader = contentReader(store)
  let left = maxBytes
  return async (content, what) => {
    left -= content.sizeBytes
    if (left < 0) throw refused(`its files have more than ${maxBytes} bytes, holes included`)
    if (isPlain(content)) return
    try {
      for await (const _ of reader.read(content, { signal }));
    } catch (thrown) {
      if (thrown instanceof BrambleError && DAMAGED.includes(thrown.code))
        throw refused(`${JSON.stringify(what.slice(0, 200))} does not fit its blobs: ${thrown.detail}`, thrown)
      throw thrown
    }
  }
}

/** Its blob's own name, which was verified when it came in, says what the content's does. */
const isPlain = ({ sizeBytes, sha256, pieces }: Content): boolean => {
  const [piece, ...others] = pieces
  if (piece === undefined) return sizeBytes === 0 && sha256 === EMPTY
  const whole = piece.offset === undefined && piece.length === undefined && piece.sizeBytes === sizeBytes
  return others.length === 0 && whole && piece.blob === sha256
}
