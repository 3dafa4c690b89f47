import { readdir, readFile, rename, rmdir, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { BrambleError } from '@bramble/protocol'
import type { NameStore } from '../blob-store.ts'
import type { KeyedLock } from '../keyed-lock.ts'
import { checkName, checkNameValue } from '../name-rules.ts'
import type { Disk } from './disk.ts'
import { isErrno, onDisk } from './fs-error.ts'

/** Marks files, so that `a` and `a/b` are beside each other: `a~`, `a/b~`. */
const FILE_MARK = '~'
const crcBytes = 4
/** A directory may be removed, by its last name, between being made and being used. */
const attempts = 16

/** Upper case as `=` and lower case: file systems that do not tell them apart keep two names apart. */
const encode = (segment: string): string => segment.replace(/[A-Z]/g, (letter) => `=${letter.toLowerCase()}`)
const decode = (segment: string): string => segment.replace(/=([a-z])/g, (_, letter: string) => letter.toUpperCase())

/** Names as files below `root`: the value, and its CRC-32. */
export const fsNames = (root: string, quarantine: string, disk: Disk, lock: KeyedLock): NameStore => {
  const placeOf = (name: string): { segments: string[]; directory: string; file: string } => {
    const segments = name.split('/').map(encode)
    const last = segments.pop() ?? ''
    return { segments, directory: join(root, ...segments), file: `${last}${FILE_MARK}` }
  }

  const write = async (name: string, value: Uint8Array): Promise<void> => {
    const { segments, directory, file } = placeOf(name)
    await using temp = await disk.create()
    const crc = Buffer.alloc(crcBytes)
    crc.writeUInt32LE(crc32(value))
    await temp.write(Buffer.concat([value, crc]))
    await temp.finish()
    for (let attempt = 1; ; attempt++)
      try {
        await disk.makeDirectories(root, segments, attempt > 1)
        return await temp.publish(directory, file)
      } catch (thrown) {
        if (!isErrno(thrown, 'ENOENT') || attempt === attempts) throw thrown
      }
  }

  const read = async (name: string): Promise<Uint8Array | undefined> => {
    const { directory, file } = placeOf(name)
    const path = join(directory, file)
    const bytes = await readFile(path).catch(missing)
    if (!bytes) return undefined
    const value = bytes.subarray(0, -crcBytes)
    if (bytes.length >= crcBytes && crc32(value) === bytes.readUInt32LE(value.length)) return value
    const aside = `name-${Date.now()}-${crc32(name).toString(16)}`
    await rename(path, join(quarantine, aside)).catch(() => undefined)
    throw new BrambleError('blob_corrupt', { detail: `the value of the name ${name} in fs; set aside as ${aside}` })
  }

  const remove = async (name: string): Promise<void> => {
    const { segments, directory, file } = placeOf(name)
    await disk.step('unlink')
    const gone = await unlink(join(directory, file)).then(() => true, missing)
    if (!gone) return
    // Whoever removed the last name beside it has removed the directory, and synced.
    await disk.syncDirectory(directory).catch(missing)
    let empty = directory
    for (const _ of segments) {
      const removed = await rmdir(empty).then(
        () => true,
        () => false,
      )
      if (!removed) return
      empty = dirname(empty)
    }
  }

  async function* walk(directory: string, above: string, prefix: string): AsyncGenerator<string, void, undefined> {
    const entries = (await onDisk(() => readdir(directory, { withFileTypes: true }).catch(missing))) ?? []
    const keys = entries.flatMap((entry): { key: string; below: string | undefined }[] => {
      if (entry.isDirectory()) return [{ key: `${decode(entry.name)}/`, below: entry.name }]
      return entry.name.endsWith(FILE_MARK) ? [{ key: decode(entry.name.slice(0, -1)), below: undefined }] : []
    })
    // With its slash a directory sorts where the names in it do.
    for (const { key, below } of keys.sort((left, right) => (left.key < right.key ? -1 : 1))) {
      const name = above + key
      if (below === undefined) {
        if (name.startsWith(prefix)) yield name
      } else if (name.startsWith(prefix) || prefix.startsWith(name)) yield* walk(join(directory, below), name, prefix)
    }
  }

  return {
    set: async (name, value, { signal } = {}) => {
      checkName(name)
      checkNameValue(value)
      signal?.throwIfAborted()
      const copy = Uint8Array.from(value)
      await onDisk(() => lock(`name ${name}`, () => write(name, copy)))
    },
    get: async (name) => {
      checkName(name)
      return onDisk(() => read(name))
    },
    remove: async (name) => {
      checkName(name)
      await onDisk(() => lock(`name ${name}`, () => remove(name)))
    },
    list: async function* (prefix, { signal } = {}) {
      for await (const name of walk(root, '', prefix)) {
        signal?.throwIfAborted()
        yield name
      }
    },
  }
}

const missing = (cause: unknown): undefined => {
  if (isErrno(cause, 'ENOENT', 'ENOTDIR')) return undefined
  throw cause
}
