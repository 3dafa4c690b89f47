import { createHash } from 'node:crypto'
import { constants, type FileHandle, open, rm } from 'node:fs/promises'
import { imageInvalid } from './image-errors.ts'

/**
 * Opens a regular file for reading. Never waits for the writer of a FIFO, and with `noFollow` never follows a symbolic
 * link in the last part of the path.
 */
export const openRegularFile = async (path: string, options: { noFollow?: boolean } = {}): Promise<FileHandle> => {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | (options.noFollow ? constants.O_NOFOLLOW : 0)
  const file = await open(path, flags).catch((cause: NodeJS.ErrnoException) => {
    throw imageInvalid(`${path} cannot be opened (${cause.code})`, cause)
  })
  const stat = await file.stat()
  if (stat.isFile()) return file
  await file.close()
  throw imageInvalid(`${path} is not a regular file`)
}

/** The file's bytes in chunks; it is closed at the end, or when the reader leaves. */
export async function* chunksOf(file: FileHandle, signal?: AbortSignal): AsyncGenerator<Buffer> {
  try {
    for (;;) {
      signal?.throwIfAborted()
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, null)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
    }
  } finally {
    await file.close()
  }
}

const CHUNK_BYTES = 256 * 1024

/** The whole file, or `image_invalid` when it is larger than `maxBytes`. */
export const readSmallFile = async (path: string, maxBytes: number): Promise<Buffer> => {
  const file = await openRegularFile(path, { noFollow: true })
  const parts: Buffer[] = []
  let bytes = 0
  for await (const chunk of chunksOf(file)) {
    bytes += chunk.length
    if (bytes > maxBytes) throw imageInvalid(`${path} is larger than ${maxBytes} bytes`)
    parts.push(chunk)
  }
  return Buffer.concat(parts)
}

export const sha256Hex = (data: Buffer | string): string => createHash('sha256').update(data).digest('hex')

/** Makes what a directory lists durable (fsync(2)): its new, renamed and removed names. */
export const syncDirectory = async (path: string): Promise<void> => {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Removes a tree. A program just killed may still add to it: then it is tried again. */
export const removeTree = (path: string): Promise<void> =>
  rm(path, { recursive: true, force: true, maxRetries: 8, retryDelay: 20 })
