import { randomFillSync } from 'node:crypto'
import type { Credentials, FileNode } from './file-system.ts'
import type { Sink, Source } from './pipe.ts'
import type { Machine } from './process.ts'

const CHUNK_BYTES = 65_536
const ZEROS = Buffer.alloc(CHUNK_BYTES)

/** Reads a file from its start; `/dev/zero` and `/dev/urandom` never end. */
export const fileSource = (file: FileNode): Source => {
  let next = 0
  return {
    read: async () => {
      if (file.device === 'zero' || file.device === 'full') return ZEROS
      if (file.device === 'random') return randomFillSync(Buffer.allocUnsafe(CHUNK_BYTES))
      return file.chunks[next++]
    },
  }
}

/** Opens `path` for writing, emptied first when `truncate`, and appends to it. */
export const fileSink = (machine: Machine, path: string, user: Credentials, truncate: boolean): Sink => {
  const file = machine.files.openForWrite(path, user, truncate)
  return {
    write: async (data, signal) => {
      signal.throwIfAborted()
      machine.files.append(file, data)
    },
  }
}
