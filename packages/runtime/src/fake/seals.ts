import { BrambleError } from '@bramble/protocol'
import type { SealStore } from '../seals/seals.ts'
import type { FakeFileSystem } from './file-system.ts'
import { applyLayer, fileAt, layerEntries } from './layer.ts'
import { imageFiles, nowNsOf } from './machine.ts'
import type { FakeClock } from './process.ts'

/** A state of a fake sandbox. Nothing changes it: whoever continues from it takes a copy. */
export interface FakeSeal {
  readonly imageDigest?: string | undefined
  readonly files: FakeFileSystem
}

const NAME = /^[a-z0-9_]{1,63}$/

/** Throws `invalid_request`, or `conflict` where the name is taken. */
export const checkNewSeal = (seals: ReadonlyMap<string, FakeSeal>, name: string): void => {
  if (!NAME.test(name)) throw new BrambleError('invalid_request', { detail: `${JSON.stringify(name)} names no seal` })
  if (seals.has(name)) throw new BrambleError('conflict', { detail: `there is a seal ${name} already` })
}

/** Throws `not_found`. */
export const sealNamed = (seals: ReadonlyMap<string, FakeSeal>, name: string): FakeSeal => {
  const seal = seals.get(name)
  if (!seal) throw new BrambleError('not_found', { detail: `there is no seal ${name} on this host` })
  return seal
}

export const sealStoreOf = (seals: Map<string, FakeSeal>, clock: FakeClock): SealStore => {
  const image = () => imageFiles(Number.MAX_SAFE_INTEGER, nowNsOf(clock))
  const find = (name: string) => sealNamed(seals, name)
  return {
    list: async () => [...seals].map(([name]) => ({ name, memory: false })),
    remove: async (name) => void seals.delete(name),
    usedBytes: async (name) => find(name).files.usedBytes,
    sync: async (name) => void find(name),
    async *entries(name, { signal } = {}) {
      signal?.throwIfAborted()
      yield* layerEntries(image(), find(name).files)
    },
    async *read(name, path, { signal } = {}) {
      for (const chunk of fileAt(find(name).files, path).chunks) {
        signal?.throwIfAborted()
        yield chunk
      }
    },
    memory: async (name) => {
      find(name)
      return undefined
    },
    // biome-ignore lint/correctness/useYield: it has no memory to give
    async *readMemory(name, file) {
      find(name)
      throw new BrambleError('file_not_found', { detail: `the seal ${name} has no memory, and no file ${file} of it` })
    },
    write: async (name, source, { signal } = {}) => {
      signal?.throwIfAborted()
      checkNewSeal(seals, name)
      const files = image()
      await applyLayer(files, source, signal)
      checkNewSeal(seals, name)
      seals.set(name, { files })
    },
  }
}
