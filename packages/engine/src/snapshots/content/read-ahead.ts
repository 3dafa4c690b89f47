import type { BytePath, LayerEntry } from '@bramble/runtime'

const SMALL_BYTES = 128 * 1024
const AHEAD_FILES = 32
const AHEAD_BYTES = 4 * 1024 * 1024
const AT_ONCE = 4

export type FileEntry = Extract<LayerEntry, { type: 'file' }>
export type ReadFile = (path: BytePath) => AsyncIterable<Uint8Array>

/**
 * Calls `use` for one file after another, with its bytes, a few at once. Small ones are read before their turn comes. When it
 * settles, all calls have.
 */
export const readAhead = async (
  files: readonly FileEntry[],
  read: ReadFile,
  use: (file: FileEntry, bytes: AsyncIterable<Uint8Array> | Uint8Array[]) => Promise<void>,
): Promise<void> => {
  const begun: Promise<Uint8Array[]>[] = []
  const using: Promise<void>[] = []
  let next = 0
  let aheadBytes = 0
  const begin = (current: number): void => {
    for (; next < files.length && next < current + AHEAD_FILES && aheadBytes < AHEAD_BYTES; next++) {
      const file = files[next]
      if (!file || file.sizeBytes > SMALL_BYTES) continue
      const bytes = whole(read(file.path))
      // Whoever comes to this file hears of it; until then nobody listens.
      bytes.catch(() => {})
      begun[next] = bytes
      aheadBytes += file.sizeBytes
    }
  }
  try {
    for (const [index, file] of files.entries()) {
      begin(index)
      const bytes = await begun[index]
      if (bytes) aheadBytes -= file.sizeBytes
      delete begun[index]
      const used = use(file, bytes ?? read(file.path))
      used.catch(() => {})
      using.push(used)
      if (using.length >= AT_ONCE) await using.shift()
    }
    await Promise.all(using)
  } finally {
    await Promise.allSettled([...using, ...begun])
  }
}

const whole = async (source: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> => {
  const pieces: Uint8Array[] = []
  for await (const piece of source) pieces.push(piece)
  return pieces
}
