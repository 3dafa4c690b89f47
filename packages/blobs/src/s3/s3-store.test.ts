import { afterAll, beforeAll } from 'vitest'
import { blobKeyOf, damageObject } from '../testing/damage-object.ts'
import { openS3Server, type S3Server } from '../testing/s3-server.ts'
import { testBlobStore } from '../testing.ts'
import { s3Store } from './s3-store.ts'
import { parseObjectStoreUrl } from './s3-url.ts'

let server: S3Server | { readonly skip: string }
beforeAll(async () => {
  server = await openS3Server()
})
afterAll(async () => {
  if (!('skip' in server)) await server.close()
})

testBlobStore('s3', {
  largeBytes: 96 * 1024 * 1024,
  open: async () => {
    if ('skip' in server) return server
    const bucket = await server.newBucket()
    const location = parseObjectStoreUrl(server.url(bucket), {})
    const client = server.client()
    let store = s3Store({ location })
    return {
      store,
      reopen: async () => {
        await store.close()
        store = s3Store({ location })
        return store
      },
      damage: (hash) => damageObject(client, bucket, blobKeyOf(hash)),
      close: async () => undefined,
    }
  },
})
