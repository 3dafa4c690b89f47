import { createReadStream } from 'node:fs'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError, memoryRequirementsSchema } from '@bramble/protocol'
import { z } from 'zod'
import { checkedEntries, exactly } from '../seals/check-entries.ts'
import { createLayerFiles } from '../seals/layer-files.ts'
import type { MemoryOffers, SealedMemory, SealStore } from '../seals/seals.ts'
import { type Launcher, launcherSealPath } from './launcher.ts'

const NAME = /^[a-z0-9_]{1,63}$/
const MEMORY_FILE = /^[a-zA-Z0-9._-]{1,128}$/
/** What a seal says of itself, beside its files and its memory. */
const INFO = 'info.json'
const PIECE_BYTES = 256 * 1024
const KNOWN_SEALS = 1000

const infoSchema = z.strictObject({
  memory: z
    .strictObject({
      requires: memoryRequirementsSchema,
      processes: z.array(z.strictObject({ pid: z.number(), command: z.string() })),
      ports: z.array(z.number()),
    })
    .optional(),
})
export type SealInfoFile = z.infer<typeof infoSchema>

/** Where a seal is for this process. */
export const sealPath = (launcher: Launcher, name: string, finished = true): string =>
  `/proc/${launcher.pid}/root${launcherSealPath(name, finished)}`

export const assertSealName = (name: string): void => {
  if (!NAME.test(name)) throw new BrambleError('invalid_request', { detail: `${JSON.stringify(name)} names no seal` })
}

/** Says what the seal is, and closes it. */
export const finishSeal = async (launcher: Launcher, name: string, info: SealInfoFile): Promise<void> => {
  await writeFile(join(sealPath(launcher, name, false), INFO), JSON.stringify(info), { mode: 0o600, flag: 'wx' })
  await launcher.finishSeal(name)
}

const notFound = (name: string): BrambleError =>
  new BrambleError('not_found', { detail: `there is no seal ${name} on this host` })

const isNotFound = (error: unknown): boolean => error instanceof BrambleError && error.code === 'not_found'

export const readInfo = async (launcher: Launcher, name: string): Promise<SealInfoFile> => {
  assertSealName(name)
  const text = await readFile(join(sealPath(launcher, name), INFO), 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ENOENT' ? notFound(name) : error
  })
  return infoSchema.parse(JSON.parse(text))
}

/** CRIU's log and figures are for who looks for a fault, and no part of the memory. */
const isImage = (file: string): boolean => MEMORY_FILE.test(file) && file.endsWith('.img')

/** The files of a seal's memory, by name. */
export const memoryFiles = async (launcher: Launcher, name: string): Promise<{ name: string; sizeBytes: number }[]> => {
  const directory = join(sealPath(launcher, name), 'memory')
  const files = (await readdir(directory)).filter(isImage).sort()
  return await Promise.all(
    files.map(async (file) => ({ name: file, sizeBytes: (await stat(join(directory, file))).size })),
  )
}

const sealedMemory = async (launcher: Launcher, name: string): Promise<SealedMemory | undefined> => {
  const { memory } = await readInfo(launcher, name)
  if (memory === undefined) return undefined
  const files = await memoryFiles(launcher, name)
  return { ...memory, files, sizeBytes: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) }
}

/** The states of sandboxes that the launcher keeps. `offers`: undefined where this host saves no memory. */
export const sealStore = (
  getLauncher: () => Promise<Launcher>,
  offers: MemoryOffers | undefined,
): SealStore & { close(): Promise<void> } => {
  const layers = createLayerFiles()
  // Files are read by the ten thousand: whether their seal is there is asked once.
  const uppers = new Map<string, string>()
  const upperOf = async (name: string): Promise<string> => {
    const launcher = await getLauncher()
    const upper = join(sealPath(launcher, name), 'files', 'upper')
    if (uppers.get(name) === upper) return upper
    await readInfo(launcher, name)
    if (uppers.size >= KNOWN_SEALS) uppers.clear()
    uppers.set(name, upper)
    return upper
  }
  return {
    ...(offers && { offers }),
    list: async () => {
      const launcher = await getLauncher()
      const names = await launcher.seals()
      const seals = names.map(async (name) => {
        try {
          const { memory } = await readInfo(launcher, name)
          return [{ name, memory: memory !== undefined }]
        } catch (error) {
          // Removed meanwhile; or what is left, after the power failed, of one that was never synced.
          if (error instanceof SyntaxError) await launcher.removeSeal(name)
          else if (!isNotFound(error)) throw error
          return []
        }
      })
      return (await Promise.all(seals)).flat()
    },
    remove: async (name) => {
      assertSealName(name)
      uppers.delete(name)
      await (await getLauncher()).removeSeal(name)
    },
    usedBytes: async (name) => {
      let bytes = (await sealedMemory(await getLauncher(), name))?.sizeBytes ?? 0
      // The quota group of a snapshot says what the sandbox's said when it was taken, which is late by a commit.
      for await (const entry of layers.entries(await upperOf(name))) if (entry.type === 'file') bytes += entry.sizeBytes
      return bytes
    },
    sync: async (name) => {
      const launcher = await getLauncher()
      await readInfo(launcher, name)
      await launcher.sync()
    },
    async *entries(name, options) {
      yield* layers.entries(await upperOf(name), options)
    },
    async *read(name, path, options) {
      yield* layers.read(await upperOf(name), path, options)
    },
    memory: async (name) => await sealedMemory(await getLauncher(), name),
    async *readMemory(name, file, { signal } = {}) {
      const launcher = await getLauncher()
      const { memory } = await readInfo(launcher, name)
      if (memory === undefined || !isImage(file))
        throw new BrambleError('file_not_found', { detail: `the seal ${name} has no file ${file} of memory` })
      yield* createReadStream(join(sealPath(launcher, name), 'memory', file), { highWaterMark: PIECE_BYTES, signal })
    },
    write: async (name, source, options) => {
      assertSealName(name)
      const launcher = await getLauncher()
      if ((await launcher.seals()).includes(name))
        throw new BrambleError('conflict', { detail: `there is a seal ${name} already` })
      await launcher.createSeal(name, source.diskBytes)
      try {
        const path = sealPath(launcher, name, false)
        await layers.write(
          join(path, 'files', 'upper'),
          { ...source, entries: checkedEntries(source.entries) },
          options,
        )
        await writeMemory(join(path, 'memory'), source.memory, options?.signal)
        const memory = source.memory?.info
        await finishSeal(launcher, name, {
          ...(memory && {
            memory: { requires: memory.requires, processes: [...memory.processes], ports: [...memory.ports] },
          }),
        })
      } catch (error) {
        await launcher.removeSeal(name).catch(() => {})
        throw error
      }
    },
    close: () => layers.close(),
  }
}

const writeMemory = async (
  directory: string,
  memory: Parameters<SealStore['write']>[1]['memory'],
  signal: AbortSignal | undefined,
): Promise<void> => {
  if (memory === undefined) return
  // Root of the sandbox, who is nobody on the host, reads them while CRIU makes it: by a path that only the launcher sees.
  await mkdir(directory, { mode: 0o711 })
  for (const { name, sizeBytes } of memory.info.files) {
    if (!isImage(name))
      throw new BrambleError('import_refused', { detail: `${JSON.stringify(name)} is no file of memory` })
    await writeFile(join(directory, name), exactly(name, sizeBytes, memory.read(name)), {
      mode: 0o644,
      flag: 'wx',
      ...(signal && { signal }),
    })
  }
}
