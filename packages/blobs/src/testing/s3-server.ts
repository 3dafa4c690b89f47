import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'

/** A real S3 server on loopback, empty, in a process of its own, which ends with this one. */
export interface S3Server extends AsyncDisposable {
  /** `http://127.0.0.1:…` */
  readonly endpoint: string
  /** Makes a bucket that nothing else uses. */
  newBucket(): Promise<string>
  /** What `BRAMBLE_OBJECT_STORE_URL` would be for the bucket, through another endpoint where one is given. */
  url(bucket: string, endpoint?: string): string
  /** For whoever looks behind the store's back. */
  client(): S3Client
  close(): Promise<void>
}

const python = join(import.meta.dirname, '../../../../.tools/moto/bin/python')

/** Serves until standard input ends: that also happens when whoever started it is killed. */
const program = `
import logging, sys
logging.getLogger('werkzeug').setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
`

export const S3_CREDENTIALS = { accessKeyId: 'bramble-tests', secretAccessKey: 'bramble-tests-secret' } as const

/** Why this host has none goes into `skip`; `bramble setup --test` brings it. */
export const openS3Server = async (): Promise<S3Server | { readonly skip: string }> => {
  if (!existsSync(python)) return { skip: `there is no S3 server here: \`bramble setup --test\` installs one` }
  const child = spawn(python, ['-c', program], {
    stdio: ['pipe', 'pipe', 'pipe'],
    // Whole bodies up to this size stay in memory; above it they go to files.
    env: { ...process.env, MOTO_S3_DEFAULT_KEY_BUFFER_SIZE: String(1024 * 1024) },
  })
  const ended = once(child, 'close')
  const endpoint = `http://127.0.0.1:${await portOf(child)}`
  const clients: S3Client[] = []
  const client = (): S3Client => {
    const made = new S3Client({
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { ...S3_CREDENTIALS },
    })
    clients.push(made)
    return made
  }
  const own = client()
  const close = async (): Promise<void> => {
    for (const each of clients) each.destroy()
    child.stdin?.end()
    await ended
  }
  return {
    endpoint,
    newBucket: async () => {
      const bucket = `t-${randomUUID()}`
      await own.send(new CreateBucketCommand({ Bucket: bucket }))
      return bucket
    },
    url: (bucket, through = endpoint) => {
      const query = new URLSearchParams({ endpoint: through, region: 'us-east-1', ...S3_CREDENTIALS })
      return `s3://${bucket}/nodes?${query}`
    },
    client,
    close,
    [Symbol.asyncDispose]: close,
  }
}

const portOf = async (
  child: ChildProcess & { stdout: Readable; stderr: Readable; stdin: Writable },
): Promise<number> => {
  const errors: string[] = []
  createInterface(child.stderr).on('line', (line) => {
    errors.push(line)
    if (errors.length > 20) errors.shift()
  })
  for await (const line of createInterface(child.stdout)) return Number(line)
  throw new Error(`the S3 server did not start: ${errors.join('\n')}`)
}
