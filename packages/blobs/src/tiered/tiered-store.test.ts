import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import { fsStore } from '../fs/fs-store.ts'
import { s3Store } from '../s3/s3-store.ts'
import { parseObjectStoreUrl } from '../s3/s3-url.ts'
import { blobKeyOf, damageObject } from '../testing/damage-object.ts'
import { openS3Server, type S3Server } from '../testing/s3-server.ts'
import { testBlobStore } from '../testing.ts'
import { tieredStore } from './tiered-store.ts'

let server: S3Server | { readonly skip: string }
beforeAll(async () => {
  server = await openS3Server()
})
afterAll(async () => {
  if (!('skip' in server)) await server.close()
})

testBlobStore('tiered', {
  largeBytes: 96 * 1024 * 1024,
  open: async () => {
    if ('skip' in server) return server
    const bucket = await server.newBucket()
    const location = parseObjectStoreUrl(server.url(bucket), {})
    const client = server.client()
    const directory = await mkdtemp(join(tmpdir(), 'bramble-tiered-'))
    const open = async () =>
      tieredStore({
        local: await fsStore({ directory }),
        shared: s3Store({ location }),
        directory: join(directory, 'tier'),
      })
    let store = await open()
    return {
      store,
      reopen: async () => {
        await store.close()
        store = await open()
        return store
      },
      damage: async (hash) => {
        const path = join(directory, 'blobs', hash.slice(0, 2), hash)
        const bytes = await readFile(path)
        const at = Math.floor(bytes.length / 2)
        bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
        await writeFile(path, bytes)
        await damageObject(client, bucket, blobKeyOf(hash))
      },
      close: () => rm(directory, { recursive: true, force: true }),
    }
  },
})
