import { writeSync } from 'node:fs'
import type { BlobHash } from '@bramble/protocol'
import { collect } from '../collect/collect.ts'
import { absentHash, noise, text } from '../testing/bytes.ts'
import { fsStore } from './fs-store.ts'

/**
 * What `crash.test.ts` starts, to kill it: `node crash-child.ts <directory> <scenario> <step>`. At that step of what the store
 * does it kills itself. Each thing that the store has told to be done is a line on standard output.
 */
const [directory = '', scenario = '', dieAt = ''] = process.argv.slice(2)

let steps = 0
const step = (): void => {
  if (steps++ === Number(dieAt)) process.kill(process.pid, 'SIGKILL')
}
const tell = (fact: object): void => {
  writeSync(1, `${JSON.stringify(fact)}\n`)
}

const scenarios: Record<string, () => Promise<void>> = {
  put: async () => {
    await using store = await fsStore({ directory, step })
    const lease = await store.leases.acquire()
    tell({ put: (await store.put(text(900), { lease })).hash, held: true })
    const pieces = [noise(300_000), text(300_000), noise(300_000, 1)]
    tell({ put: (await store.put(pieces, { lease })).hash, held: true })
    tell({ put: (await store.put(text(70_000), { temperature: 'cold' })).hash })
    tell({ put: (await store.put(pieces)).hash, held: true })
    const all = Array.from({ length: 3 }, (_, i) => store.put(noise(2000, i), { lease }))
    for (const { hash } of await Promise.all(all)) tell({ put: hash, held: true })
    await lease.release()
    tell({ released: true })
  },
  names: async () => {
    await using store = await fsStore({ directory, step })
    const { names } = store
    for (const value of ['first', 'second']) {
      await names.set('tenant/results/a', Buffer.from(value))
      tell({ name: 'tenant/results/a', value })
    }
    await names.set('tenant/results/b', Buffer.from('kept'))
    tell({ name: 'tenant/results/b', value: 'kept' })
    await names.remove('tenant/results/a')
    tell({ name: 'tenant/results/a', value: null })
    await names.set('tenant/results/a', Buffer.from('third'))
    tell({ name: 'tenant/results/a', value: 'third' })
  },
  collect: async () => {
    await using store = await fsStore({ directory, step })
    const lease = await store.leases.acquire()
    // While it is marked, somebody needs again what nothing reached.
    const roots = async function* (): AsyncIterable<BlobHash> {
      for (const hash of (process.env.ROOTS ?? '').split(',')) yield hash as BlobHash
      tell({ put: (await store.put(noise(5000, 4), { lease })).hash, held: true })
      yield absentHash
    }
    await collect(store, roots(), { graceMs: 1000 })
    tell({ collected: true })
  },
  evict: async () => {
    await using store = await fsStore({
      directory,
      step,
      maxBytes: 60_000,
      evictable: (hash) => (process.env.EVICTABLE ?? '').includes(hash),
    })
    for (let i = 10; i < 16; i++) tell({ put: (await store.put(noise(6000, i))).hash })
  },
}

await scenarios[scenario]?.()
tell({ done: true })
