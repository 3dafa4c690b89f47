import { LIMITS } from '@bramble/protocol'

/** A text as lines, each with its terminator, so that CRLF and a missing last newline are part of what is compared. */
export interface Lines {
  readonly bytes: Buffer
  /** Where each line begins, and the end of the last: one more than there are lines. */
  readonly starts: Int32Array
  /** A number for each line; equal lines of all texts of one merge have the same. */
  readonly ids: Int32Array
}

const NEWLINE = 0x0a

/** Text is what has no NUL (as for `git` and `diff`), and not more lines than a merge takes. */
export const isText = (bytes: Uint8Array): boolean => {
  if (bytes.length > LIMITS.maxMergeTextBytes.value || bytes.includes(0)) return false
  let lines = 0
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) lines++
  return lines < LIMITS.maxMergeTextLines.value
}

/** Splits texts so that their lines can be compared by number. */
export const makeLineReader = (): ((bytes: Uint8Array) => Lines) => {
  const known = new Map<string, number>()
  return (source) => {
    const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength)
    const starts = [0]
    for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) starts.push(at + 1)
    if (starts.at(-1) !== bytes.length) starts.push(bytes.length)
    const ids = new Int32Array(starts.length - 1)
    for (let line = 0; line < ids.length; line++) {
      const text = bytes.toString('latin1', starts[line], starts[line + 1])
      let id = known.get(text)
      if (id === undefined) {
        id = known.size
        known.set(text, id)
      }
      ids[line] = id
    }
    return { bytes, starts: Int32Array.from(starts), ids }
  }
}

export const sliceLines = ({ bytes, starts }: Lines, from: number, to: number): Buffer =>
  bytes.subarray(starts[from], starts[to])
