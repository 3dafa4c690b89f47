import { createReadStream } from 'node:fs'
import { fsStore } from '@bramble/blobs'
import { importSnapshot } from '../import-snapshot.ts'

/** Imports an archive into a store on disk, tells of each piece that was read, and waits to be killed before the last one. */
const [archive = '', directory = '', stagingDirectory = ''] = process.argv.slice(2)
const store = await fsStore({ directory })
async function* slowly(): AsyncGenerator<Uint8Array> {
  let last: Uint8Array | undefined
  for await (const piece of createReadStream(archive, { highWaterMark: 64 * 1024 })) {
    if (last !== undefined) yield last
    last = piece
  }
  process.send?.('nearly')
  await new Promise<never>(() => setInterval(() => undefined, 1000))
}
await importSnapshot({ store, source: slowly(), stagingDirectory, lease: await store.leases.acquire() })
