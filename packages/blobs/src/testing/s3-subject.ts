import { afterAll, beforeAll, type TestContext } from 'vitest'
import { openS3Server, type S3Server } from './s3-server.ts'
import { required, skip } from './subject.ts'

/** The server of a test file: the test is skipped, with the reason, where this host has none. */
export const useS3Server = (): ((context: TestContext) => S3Server) => {
  let server: S3Server | { readonly skip: string } | undefined
  beforeAll(async () => {
    server = await openS3Server()
    if ('skip' in server && required('s3')) throw new Error(`REQUIRE_DRIVERS names s3: ${server.skip}`)
  })
  afterAll(async () => {
    if (server && !('skip' in server)) await server.close()
  })
  return (context) => {
    if (!server) throw new Error('the S3 server was not opened')
    return 'skip' in server ? skip(context, server.skip) : server
  }
}
