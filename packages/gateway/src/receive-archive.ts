import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { BrambleError } from '@bramble/protocol'
import type { GatewayLimits } from './limits.ts'

export interface ReceivedArchive extends AsyncDisposable {
  readonly path: string
}

export interface ArchiveOptions {
  readonly uploadDirectory: string
  readonly limits: Pick<GatewayLimits, 'maxUploadBytes'>
  readonly declaredBytes?: number
  /** All archives there are. */
  readonly held: { uploadBytes: number }
}

/**
 * Writes a request's body to a file of its own, which disposing removes. What arrived before a failure is removed at once. All of
 * them together take at most half of what the disk would have free without them.
 *
 * Errors: `body_too_large`, `queue_full`, and those of the body.
 */
export const receiveArchive = async (
  body: AsyncIterable<Uint8Array>,
  options: ArchiveOptions,
  signal: AbortSignal,
): Promise<ReceivedArchive> => {
  const { held, limits } = options
  const { maxUploadBytes } = limits
  // A directory of its own: the image's source names the file.
  const directory = join(options.uploadDirectory, randomUUID())
  const path = join(directory, 'upload')
  let size = 0
  const remove = async (): Promise<void> => {
    await rm(directory, { recursive: true, force: true })
    held.uploadBytes -= size
    size = 0
  }
  const tooLarge = new BrambleError('body_too_large', { detail: `the archive is larger than ${maxUploadBytes} bytes` })
  if ((options.declaredBytes ?? 0) > maxUploadBytes) throw tooLarge
  const { bavail, bsize } = await statfs(options.uploadDirectory)
  const roomBytes = (bavail * bsize + held.uploadBytes) / 2
  const bounded = new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      size += chunk.length
      held.uploadBytes += chunk.length
      if (size > maxUploadBytes) done(tooLarge)
      else if (held.uploadBytes > roomBytes) done(noRoom())
      else done(null, chunk)
    },
  })
  await mkdir(directory, { mode: 0o700 })
  try {
    await pipeline(body, bounded, createWriteStream(path, { mode: 0o600 }), { signal })
  } catch (error) {
    await remove()
    signal.throwIfAborted()
    throw error
  }
  return { path, [Symbol.asyncDispose]: remove }
}

const noRoom = (): BrambleError =>
  new BrambleError('queue_full', {
    detail: 'archives on their way in take as much of the disk as they may',
    retryAfterMs: 5000,
  })
