import { GetObjectCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3'

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
