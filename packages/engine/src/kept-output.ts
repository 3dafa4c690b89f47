const FIRST_BYTES = 1024
const EMPTY = Buffer.alloc(0)

/** The first `maxBytes` of a stream, in one buffer of our own: a chunk handed in is not held on to. */
export interface KeptOutput {
  /** Takes what fits. True when everything did. */
  add(chunk: Uint8Array): boolean
  readonly sizeBytes: number
  readonly truncated: boolean
  /** A view; what it shows never changes, since kept bytes are written once. */
  bytes(from?: number, to?: number): Buffer
  /** Gives the shared room back. */
  release(): void
}

/** Room that the kept outputs of all executions share, beyond what each has for itself. */
export interface OutputRoom {
  leftBytes: number
}
const OWN_BYTES = 1024 * 1024

/** Keeps at most `maxBytes`; of what is more than `OWN_BYTES`, as much as `room` has left. */
export const keepOutput = (maxBytes: number, room: OutputRoom = { leftBytes: maxBytes }): KeptOutput => {
  let buffer = EMPTY
  let size = 0
  let truncated = false
  let sharedBytes = 0
  const share = (taken: number): void => {
    const more = Math.max(0, size + taken - OWN_BYTES) - sharedBytes
    sharedBytes += more
    room.leftBytes -= more
  }
  return {
    add(chunk) {
      const taken = Math.min(chunk.length, maxBytes - size, Math.max(0, OWN_BYTES - size) + room.leftBytes)
      share(taken)
      if (taken < chunk.length) truncated = true
      if (taken > 0) {
        if (size + taken > buffer.length) {
          const grown = Buffer.allocUnsafeSlow(
            Math.min(maxBytes, Math.max(FIRST_BYTES, buffer.length * 2, size + taken)),
          )
          buffer.copy(grown, 0, 0, size)
          buffer = grown
        }
        buffer.set(taken === chunk.length ? chunk : chunk.subarray(0, taken), size)
        size += taken
      }
      return taken === chunk.length
    },
    get sizeBytes() {
      return size
    },
    get truncated() {
      return truncated
    },
    release() {
      room.leftBytes += sharedBytes
      sharedBytes = 0
    },
    bytes: (from = 0, to = size) => buffer.subarray(from, Math.min(to, size)),
  }
}

/**
 * Where a cut through the middle of a UTF-8 character would leave its first bytes at the end, the length without them;
 * else the whole length. So text that was cut at a limit is still text.
 */
export const wholeCharactersBytes = (bytes: Uint8Array): number => {
  const end = bytes.length
  for (let back = 1; back <= Math.min(3, end); back++) {
    const byte = bytes[end - back] ?? 0
    if (byte >= 0xc0) {
      const expected = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
      return expected > back ? end - back : end
    }
    if (byte < 0x80) return end
  }
  return end
}
