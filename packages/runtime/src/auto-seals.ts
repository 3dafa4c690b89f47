import { BrambleError } from '@bramble/protocol'
import type { Runtime } from './runtime.ts'
import type { SealStore } from './seals/seals.ts'

/** The runtime that has the seal `name`. Rejects with `not_found`. */
export const runtimeOfSeal = async (runtimes: readonly Runtime[], name: string): Promise<Runtime> => {
  for (const runtime of runtimes) {
    const seals = (await runtime.seals?.list()) ?? []
    if (seals.some((seal) => seal.name === name)) return runtime
  }
  throw new BrambleError('not_found', { detail: `there is no seal ${name} on this host` })
}

/** The seals of several runtimes as those of one; new ones are written where the first is that has any. */
export const joinSeals = (runtimes: readonly Runtime[]): SealStore | undefined => {
  const [first, ...others] = runtimes.flatMap(({ seals }) => seals ?? [])
  if (!first || others.length === 0) return first
  const stores = [first, ...others]
  const find = async (name: string): Promise<SealStore> => (await runtimeOfSeal(runtimes, name)).seals ?? first
  const { offers } = stores.find((store) => store.offers !== undefined) ?? {}
  return {
    ...(offers && { offers }),
    list: async () => (await Promise.all(stores.map((store) => store.list()))).flat(),
    remove: async (name) => {
      await Promise.all(stores.map((store) => store.remove(name)))
    },
    usedBytes: async (name) => (await find(name)).usedBytes(name),
    sync: async (name) => (await find(name)).sync(name),
    async *entries(name, options) {
      yield* (await find(name)).entries(name, options)
    },
    async *read(name, path, options) {
      yield* (await find(name)).read(name, path, options)
    },
    memory: async (name) => (await find(name)).memory(name),
    async *readMemory(name, file, options) {
      yield* (await find(name)).readMemory(name, file, options)
    },
    write: (name, source, options) => first.write(name, source, options),
  }
}
