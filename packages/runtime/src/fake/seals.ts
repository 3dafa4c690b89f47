import { randomUUID } from 'node:crypto'
import { BrambleError } from '@bramble/protocol'
import { exactly } from '../seals/check-entries.ts'
import type { SealSource, SealStore } from '../seals/seals.ts'
import type { FakeFileSystem } from './file-system.ts'
import { applyLayer, fileAt, layerEntries } from './layer.ts'
import { imageFiles } from './machine.ts'
import { describeMemory, FAKE_MEMORY_FILE, FAKE_OFFERS, type FakeMemory } from './memory.ts'
import type { FakeClock } from './process.ts'

/** A state of a fake sandbox. Nothing changes it: whoever continues from it takes a copy. */
export interface FakeSeal {
  readonly imageDigest?: string | undefined
  readonly files: FakeFileSystem
  /** Its name in `FakeHost.memories`. */
  readonly memory?: string | undefined
}

/** Memory images by their names. */
export type FakeMemories = Map<string, FakeMemory>

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

export const keepMemory = (memories: FakeMemories, memory: FakeMemory): string => {
  const id = randomUUID()
  memories.set(id, memory)
  return id
}

export const sealStoreOf = (
  seals: Map<string, FakeSeal>,
  memories: FakeMemories,
  clock: FakeClock,
  checkpoint: boolean,
): SealStore => {
  const image = () => imageFiles(Number.MAX_SAFE_INTEGER, clock)
  const find = (name: string) => sealNamed(seals, name)
  const memoryOf = (name: string) => {
    const id = find(name).memory
    const memory = id === undefined ? undefined : memories.get(id)
    return id === undefined || !memory ? undefined : { id, described: describeMemory(memory, id) }
  }
  return {
    ...(checkpoint && { offers: FAKE_OFFERS }),
    list: async () => [...seals].map(([name, { memory }]) => ({ name, memory: memory !== undefined })),
    remove: async (name) => void seals.delete(name),
    usedBytes: async (name) => find(name).files.usedBytes + (memoryOf(name)?.described.sizeBytes ?? 0),
    sync: async (name) => void find(name),
    async *entries(name, { signal } = {}) {
      signal?.throwIfAborted()
      yield* layerEntries(image(), find(name).files)
    },
    async *read(name, path, { signal } = {}) {
      for (const chunk of fileAt(image(), find(name).files, path).chunks) {
        signal?.throwIfAborted()
        yield chunk
      }
    },
    memory: async (name) => memoryOf(name)?.described,
    async *readMemory(name, file, { signal } = {}) {
      signal?.throwIfAborted()
      const memory = memoryOf(name)
      if (!memory || file !== FAKE_MEMORY_FILE)
        throw new BrambleError('file_not_found', { detail: `the seal ${name} has no memory ${JSON.stringify(file)}` })
      yield Buffer.from(memory.id)
    },
    write: async (name, source, { signal } = {}) => {
      signal?.throwIfAborted()
      checkNewSeal(seals, name)
      const files = image()
      await applyLayer(files, source, signal)
      const memory = source.memory && (await memoryFrom(memories, source.memory))
      checkNewSeal(seals, name)
      seals.set(name, { files, memory })
    },
  }
}

/** The image that the bytes name: there is no other form of one that could be read again. */
const memoryFrom = async (
  memories: FakeMemories,
  { info, read }: NonNullable<SealSource['memory']>,
): Promise<string> => {
  const [file] = info.files
  if (info.requires.runtime !== FAKE_OFFERS.runtime || info.requires.format !== FAKE_OFFERS.format || !file)
    throw new BrambleError('snapshot_incompatible', {
      detail: `its memory is of the runtime ${info.requires.runtime} (${info.requires.format}), not of the fake one`,
    })
  const chunks: Uint8Array[] = []
  for await (const chunk of exactly(file.name, file.sizeBytes, read(file.name))) chunks.push(chunk)
  const id = Buffer.concat(chunks).toString()
  if (!memories.has(id)) throw new BrambleError('snapshot_incompatible', { detail: 'its memory is of another host' })
  return id
}
