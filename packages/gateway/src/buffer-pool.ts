/** Buffers that go out and come back when the socket is done with them, so that a long stream makes no garbage. */
export const bufferPool = () => {
  const kept = 4
  const free: Buffer[] = []
  return {
    take: (bytes: number): Buffer => {
      const buffer = free.pop()
      return buffer && buffer.length >= bytes ? buffer : Buffer.allocUnsafeSlow(bytes)
    },
    give: (buffer: Buffer): void => {
      if (free.length < kept) free.push(buffer)
    },
  }
}
