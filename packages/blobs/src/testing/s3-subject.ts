import { GetObjectCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3'
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

/** Changes a bit of an object behind the store's back. */
export const damageObject = async (client: S3Client, bucket: string, key: string): Promise<void> => {
  const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }))
  const bytes = Buffer.from((await Body?.transformToByteArray()) ?? [])
  const at = Math.floor(bytes.length / 2)
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes }))
}

/** Where a blob is, with the prefix of the URLs that `S3Server` gives. */
export const blobKeyOf = (hash: string): string => `nodes/blobs/${hash.slice(0, 2)}/${hash}`
