import type { BytePath, LayerEntry } from '@bramble/runtime'

const SMALL_BYTES = 128 * 1024
const AHEAD_FILES = 32
const AHEAD_BYTES = 4 * 1024 * 1024

export type FileEntry = Extract<LayerEntry, { type: 'file' }>
export type ReadFile = (path: BytePath) => AsyncIterable<Uint8Array>

/** Calls `use` for one file after another, with its bytes. Small ones are read while those before them are used. */
export const readAhead = async (
  files: readonly FileEntry[],
  read: ReadFile,
  use: (file: FileEntry, bytes: AsyncIterable<Uint8Array> | Uint8Array[]) => Promise<void>,
): Promise<void> => {
  const begun: Promise<Uint8Array[]>[] = []
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
  for (const [index, file] of files.entries()) {
    begin(index)
    const bytes = begun[index]
    if (!bytes) {
      await use(file, read(file.path))
      continue
    }
    delete begun[index]
    const pieces = await bytes
    aheadBytes -= file.sizeBytes
    await use(file, pieces)
  }
}

const whole = async (source: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> => {
  const pieces: Uint8Array[] = []
  for await (const piece of source) pieces.push(piece)
  return pieces
}
