import { writeSync } from 'node:fs'
import { join } from 'node:path'
import { fsStore } from '../fs/fs-store.ts'
import { s3Store } from '../s3/s3-store.ts'
import { parseObjectStoreUrl } from '../s3/s3-url.ts'
import { noise, text } from '../testing/bytes.ts'
import { tieredStore } from './tiered-store.ts'

/**
 * What `crash.test.ts` starts, to kill it: `node crash-child.ts <directory> <URL of the object store> <step>`. At that step of
 * what the queue, the uploads and the object store do, it kills itself. What it was told to be done is a line on standard output.
 */
const [directory = '', url = '', dieAt = ''] = process.argv.slice(2)

let steps = 0
const step = (): void => {
  if (steps++ === Number(dieAt)) process.kill(process.pid, 'SIGKILL')
}
const tell = (fact: object): void => {
  writeSync(1, `${JSON.stringify(fact)}\n`)
}

const store = await tieredStore({
  local: await fsStore({ directory }),
  shared: s3Store({ location: parseObjectStoreUrl(url, {}), step }),
  directory: join(directory, 'tier'),
  step,
})
const { names } = store
const put = async (bytes: Uint8Array): Promise<void> => tell({ put: (await store.put(bytes)).hash })
const set = async (name: string, value: string): Promise<void> => {
  await names.set(name, Buffer.from(value))
  tell({ name, value })
}

// What an earlier life left is queued when it starts.
await put(text(900))
await put(noise(8.2 * 1024 * 1024))
await set('a', 'first')
await set('a', 'second')
await put(noise(5000))
await set('b', 'kept')
await store.settled()
await names.remove('a')
tell({ name: 'a', value: null })
await set('a', 'third')
await store.settled()
await store.close()
tell({ done: true })
