import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { BrambleError } from '@bramble/protocol'
import type { GatewayLimits } from './limits.ts'

export interface ReceivedArchive extends AsyncDisposable {
  readonly path: string
}

/**
 * Writes a request's body to a file of its own, which disposing removes. What arrived before a failure is removed at once.
 *
 * Errors: `body_too_large`, and those of the body.
 */
export const receiveArchive = async (
  body: AsyncIterable<Uint8Array>,
  options: { uploadDirectory: string; limits: Pick<GatewayLimits, 'maxUploadBytes'>; declaredBytes?: number },
  signal: AbortSignal,
): Promise<ReceivedArchive> => {
  const { maxUploadBytes } = options.limits
  // A directory of its own: the image's source names the file.
  const directory = join(options.uploadDirectory, randomUUID())
  const path = join(directory, 'upload')
  const remove = (): Promise<void> => rm(directory, { recursive: true, force: true })
  const tooLarge = new BrambleError('body_too_large', { detail: `the archive is larger than ${maxUploadBytes} bytes` })
  if ((options.declaredBytes ?? 0) > maxUploadBytes) throw tooLarge
  let size = 0
  const bounded = new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      size += chunk.length
      if (size > maxUploadBytes) done(tooLarge)
      else done(null, chunk)
    },
  })
  await mkdir(directory, { mode: 0o700 })
  try {
    await pipeline(body, bounded, createWriteStream(path, { mode: 0o600 }), {
      signal,
    })
  } catch (error) {
    await remove()
    signal.throwIfAborted()
    throw error
  }
  return { path, [Symbol.asyncDispose]: remove }
}
