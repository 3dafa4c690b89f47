const KEPT = 16

/**
 * Buffers that go out and come back when the socket is done with them, so that a long stream makes no garbage. All are as
 * large as the largest that was asked for: pieces of output come in every size, and buffers that fit only some of them
 * would be given up for larger ones again and again.
 */
export const bufferPool = () => {
  const free: Buffer[] = []
  let largestBytes = 0
  return {
    take: (bytes: number): Buffer => {
      if (bytes > largestBytes) {
        largestBytes = bytes
        free.length = 0
      }
      return free.pop() ?? Buffer.allocUnsafeSlow(largestBytes)
    },
    give: (buffer: Buffer): void => {
      if (free.length < KEPT && buffer.length === largestBytes) free.push(buffer)
    },
  }
}
