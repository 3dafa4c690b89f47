import { posix } from 'node:path'
import { Readable, type Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { BrambleError } from '@bramble/protocol'

/** What an archive becomes without its compression. Bytes that are not gzip are `invalid_request`. */
export const gunzip = (compressed: AsyncIterable<Uint8Array>, maxBytes: number): AsyncIterable<Buffer> =>
  through(compressed, createGunzip(), maxBytes, (error) =>
    (error as NodeJS.ErrnoException).code?.startsWith('Z_')
      ? new BrambleError('invalid_request', { detail: `the archive is not gzip: ${String(error)}`, cause: error })
      : error,
  )

/** Passes bytes through a stream of Node's, at the reader's pace; leaving the loop early ends both. */
export async function* through(
  source: AsyncIterable<Uint8Array>,
  transform: Transform,
  maxBytes = Number.POSITIVE_INFINITY,
  explain: (error: unknown) => unknown = (error) => error,
): AsyncGenerator<Buffer> {
  const piping = pipeline(Readable.from(source, { objectMode: false }), transform)
  // Told by the loop below.
  piping.catch(() => {})
  let bytes = 0
  try {
    for await (const chunk of transform as AsyncIterable<Buffer>) {
      bytes += chunk.length
      if (bytes > maxBytes)
        throw new BrambleError('body_too_large', { detail: `the archive unpacks to more than ${maxBytes} bytes` })
      yield chunk
    }
    await piping
  } catch (error) {
    throw explain(error)
  }
}

/** A name of an archive or a form below a directory; one that would lead out of it is refused. */
export const insideOf = (directory: Buffer, name: string): Buffer => {
  const parts = name.split('/')
  if (name === '' || posix.isAbsolute(name) || parts.includes('..') || name.includes('\0'))
    throw new BrambleError('invalid_request', {
      detail: `\`${name.slice(0, 256)}\` is no name of a file in a directory`,
    })
  return Buffer.concat([directory, Buffer.from(`/${name}`)])
}
