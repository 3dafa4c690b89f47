/** Reads an exact number of bytes, or as many as are there, from a stream of chunks. Holds one chunk at most. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterable<Buffer>) {
    this.#chunks = source[Symbol.asyncIterator]()
  }

  /** 1 to `maxBytes` bytes, or undefined at the end. */
  async some(maxBytes: number): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next()
      if (next.done) return undefined
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, maxBytes)
    this.#rest = this.#rest.subarray(taken.length)
    return taken
  }

  /** Exactly `bytes` bytes; fewer only where the stream ends before. */
  async exactly(bytes: number): Promise<Buffer> {
    const first = (await this.some(bytes)) ?? Buffer.alloc(0)
    if (first.length === bytes) return first
    const parts = [first]
    let have = first.length
    while (have < bytes) {
      const part = await this.some(bytes - have)
      if (part === undefined) break
      parts.push(part)
      have += part.length
    }
    return Buffer.concat(parts)
  }

  /** Reads to the end, for the sake of whoever counts or hashes the source. */
  async drain(): Promise<void> {
    while ((await this.some(Number.MAX_SAFE_INTEGER)) !== undefined);
  }

  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}
