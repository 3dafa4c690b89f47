import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream as NodeStream } from 'node:stream/web'

/** Writes a stream to a file of this host: whole, or not at all. A file that is there already is replaced. */
export const saveStream = async (stream: ReadableStream<Uint8Array>, path: string): Promise<void> => {
  const partial = `${path}.${randomUUID().slice(0, 8)}.part`
  try {
    const file = createWriteStream(partial, { flags: 'wx', mode: 0o600, flush: true })
    await pipeline(Readable.fromWeb(stream as NodeStream), file)
    await rename(partial, path)
  } finally {
    await rm(partial, { force: true })
  }
}
