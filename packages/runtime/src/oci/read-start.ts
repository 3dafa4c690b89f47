import { open } from 'node:fs/promises'

/** The first `maxBytes` of a file of proc(5), as text; nothing where it cannot be read: its process may have ended. */
export const readStart = async (path: string, maxBytes: number): Promise<string> => {
  try {
    await using file = await open(path)
    const bytes = Buffer.allocUnsafe(maxBytes)
    let length = 0
    for (let got = -1; got !== 0 && length < maxBytes; length += got)
      got = (await file.read(bytes, length, maxBytes - length)).bytesRead
    return bytes.toString('utf8', 0, length)
  } catch {
    return ''
  }
}
