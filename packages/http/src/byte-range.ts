import { BrambleError } from '@bramble/protocol'

export interface ByteRange {
  readonly offset: number
  readonly length: number
}

const SINGLE = /^bytes=(?:(\d{1,15})-(\d{1,15})?|-(\d{1,15}))$/i

/**
 * The part of a file of `sizeBytes` that a `Range` header asks for (RFC 9110, section 14): undefined where it is to be ignored,
 * which is the whole file (several ranges, other units, what makes no sense). Throws `range_not_satisfiable`.
 */
export const byteRange = (header: string, sizeBytes: number): ByteRange | undefined => {
  const match = SINGLE.exec(header.replaceAll(' ', ''))
  if (!match) return undefined
  const [, first, last, suffix] = match
  const range =
    first === undefined
      ? { from: Math.max(0, sizeBytes - Number(suffix)), to: Number(suffix) === 0 ? -1 : sizeBytes - 1 }
      : { from: Number(first), to: last === undefined ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1) }
  if (last !== undefined && Number(last) < Number(first)) return undefined
  if (range.from >= sizeBytes || range.to < range.from)
    throw new BrambleError('range_not_satisfiable', { detail: `the file has ${sizeBytes} bytes` })
  return { offset: range.from, length: range.to - range.from + 1 }
}
