import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { EXIT, ExitError } from './exit.ts'

/** A file of this host as a stream, with its size where it has one; `-` is standard input. */
export const openSource = async (
  path: string,
): Promise<{ source: AsyncIterable<Uint8Array>; sizeBytes: number | undefined }> => {
  if (path === '-') return { source: process.stdin, sizeBytes: undefined }
  try {
    await using file = await open(path)
    const found = await file.stat()
    if (found.isDirectory()) throw new ExitError(EXIT.failure, `${path} is a directory`)
    return { source: createReadStream(path), sizeBytes: found.isFile() ? found.size : undefined }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    throw new ExitError(EXIT.failure, `there is no file ${path}`)
  }
}
