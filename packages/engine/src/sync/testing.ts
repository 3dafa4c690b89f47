import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BlobStore, openStore } from '@bramble/blobs'
import { openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import { afterAll, beforeAll, onTestFinished, type TestContext } from 'vitest'

/** The S3 server of a test file. Where this host has none, the test is skipped, or fails as `REQUIRE_DRIVERS` says. */
export const useObjectStore = (): ((context: TestContext) => Promise<string>) => {
  let server: S3Server | { readonly skip: string } | undefined
  beforeAll(async () => {
    server = await openS3Server()
    if ('skip' in server && process.env.REQUIRE_DRIVERS?.split(',').includes('s3')) throw new Error(server.skip)
  })
  afterAll(async () => {
    if (server && !('skip' in server)) await server.close()
  })
  return async (context) => {
    if (!server || 'skip' in server) {
      process.stderr.write(`skipped: ${context.task.name}: ${server?.skip}\n`)
      return context.skip(server?.skip)
    }
    return server.url(await server.newBucket())
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
