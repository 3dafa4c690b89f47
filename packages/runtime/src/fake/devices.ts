import { randomFillSync } from 'node:crypto'
import type { Credentials, FakeFileSystem, FileNode } from './file-system.ts'
import type { Sink, Source } from './pipe.ts'
import type { Machine } from './process.ts'

const CHUNK_BYTES = 65_536
const ZEROS = Buffer.alloc(CHUNK_BYTES)

/** Reads a file from its start; `/dev/zero` and `/dev/urandom` never end. */
export const fileSource = (file: FileNode, from = 0): Source => {
  let next = from
  const source: Source = {
    copy: (world) => world.once(source, () => fileSource(world.file(file), next)),
    read: async () => {
      if (file.device === 'zero' || file.device === 'full') return ZEROS
      if (file.device === 'random') return randomFillSync(Buffer.allocUnsafe(CHUNK_BYTES))
      return file.chunks[next++]
    },
  }
  return source
}

/** Opens `path` for writing, emptied first when `truncate`, and appends to it. */
export const fileSink = ({ files }: Machine, path: string, user: Credentials, truncate: boolean): Sink =>
  openFileSink(files, files.openForWrite(path, user, truncate))

const openFileSink = (files: FakeFileSystem, file: FileNode): Sink => {
  const sink: Sink = {
    copy: (world) => world.once(sink, () => openFileSink(world.machine.files, world.file(file))),
    write: async (data, signal) => {
      signal.throwIfAborted()
      files.append(file, data)
    },
  }
  return sink
}
