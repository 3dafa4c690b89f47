import { writeSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fsStore } from '@bramble/blobs'
import type { SealStore } from '@bramble/runtime'
import { materialize } from './materialize.ts'
import { storeSeal } from './store-seal.ts'
import { directorySeals } from './testing/directory-seals.ts'
import { about, noImage } from './testing/subject.ts'

/**
 * What `crash.test.ts` starts, to kill it: `node crash-child.ts <directory> <step>`. At that step of what the store does, or of
 * what is read of a seal, it kills itself. What is done is a line on standard output.
 */
const [directory = '', dieAt = ''] = process.argv.slice(2)

let steps = 0
const step = (): void => {
  if (steps++ === Number(dieAt)) process.kill(process.pid, 'SIGKILL')
}
const tell = (fact: object): void => {
  writeSync(1, `${JSON.stringify(fact)}\n`)
}

async function* stepping<T>(source: AsyncIterable<T>): AsyncGenerator<T> {
  for await (const item of source) {
    step()
    yield item
  }
}

const store = await fsStore({ directory: join(directory, 'store'), step })
const files = await directorySeals(directory, 'other')
const seals: SealStore = {
  ...files,
  entries: (name, options) => stepping(files.entries(name, options)),
  read: (name, path, options) => stepping(files.read(name, path, options)),
  write: (name, source, options) =>
    files.write(name, { ...source, read: (path) => stepping(source.read(path)) }, options),
}

await writeFile(join(files.layer, 'large'), 'large '.repeat(50_000))
for (const name of ['first', 'second']) {
  await writeFile(join(files.layer, name), name)
  await files.take(name)
  await using lease = await store.leases.acquire()
  const { manifest, hash } = await storeSeal({ store, seals, seal: name, lease, ...about })
  tell({ snapshot: hash })
  if (name === 'second') continue
  await materialize({ store, seals, name: `${name}-back`, manifest, image: noImage, trustMemory: false })
  tell({ seal: `${name}-back` })
}
await store.close()
await files[Symbol.asyncDispose]()
tell({ done: true })
