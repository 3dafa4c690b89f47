import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BlobStore, openStore } from '@bramble/blobs'
import { useS3Server } from '@bramble/blobs/testing'
import { onTestFinished, type TestContext } from 'vitest'

/** The URL of a new bucket, in the S3 server of the test file. */
export const useObjectStore = (): ((context: TestContext) => Promise<string>) => {
  const server = useS3Server()
  return async (context) => {
    const real = server(context)
    return real.url(await real.newBucket())
  }
}

export const newDirectory = async (): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-sync-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** The store of one more node. */
export const openNodeStore = async (objectStoreUrl: string): Promise<BlobStore> => {
  const store = await openStore({ directory: join(await newDirectory(), 'blobs'), objectStoreUrl })
  onTestFinished(() => store.close())
  return store
}
