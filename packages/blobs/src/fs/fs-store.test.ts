import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { type BlobStore, fsStore } from '../index.ts'
import { testBlobStore } from '../testing.ts'

/** Changes a bit in the middle of a file. */
const flipBit = async (path: string): Promise<void> => {
  const file = await open(path, 'r+')
  const { size } = await file.stat()
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, Math.floor(size / 3))
  byte.writeUInt8(byte.readUInt8() ^ 4)
  await file.write(byte, 0, 1, Math.floor(size / 3))
  await file.close()
}

testBlobStore('fs', {
  open: async () => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-blobs-'))
    let store: BlobStore = await fsStore({ directory })
    return {
      store,
      reopen: async () => {
        await store.close()
        store = await fsStore({ directory })
        return store
      },
      damage: (hash: BlobHash) => flipBit(join(directory, 'blobs', hash.slice(0, 2), hash)),
      close: () => rm(directory, { recursive: true }),
    }
  },
})
