import { randomUUID } from 'node:crypto'
import { chmod, mkdir, open, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { imageSchema } from '@bramble/protocol'
import { z } from 'zod'
import { removeTree, syncDirectory } from './host-file.ts'
import type { StoredImage } from './image-index.ts'

const storedSchema = imageSchema.omit({ names: true })
const namesSchema = z.object({ version: z.literal(1), names: z.record(z.string(), z.string()) })

/**
 * The directory of an image store:
 *
 * - `sha256/<hex>/rootfs/` and `sha256/<hex>/image.json`: an image, renamed into place when it is whole and on disk;
 * - `names.json`: what the names lead to, replaced as a whole;
 * - `tmp/<process>-<random>/`: imports under way, and images on their way out.
 *
 * It is open to its owner alone: a program that runs as its owner (set-user-id) in an image must not be run by the
 * host's other users.
 */
export interface ImageDisk {
  load(): Promise<{ images: StoredImage[]; names: Record<string, string> }>
  makeWork(): Promise<string>
  rootfsOf(digest: string): string
  /** Makes what is in `work` (a `rootfs`) the image; on disk when it returns. */
  commit(work: string, image: StoredImage): Promise<void>
  remove(digest: string): Promise<void>
  writeNames(names: Record<string, string>): Promise<void>
}

export const openImageDisk = async (directory: string): Promise<ImageDisk> => {
  const sha256 = join(directory, 'sha256')
  const tmp = join(directory, 'tmp')
  const namesFile = join(directory, 'names.json')
  for (const path of [directory, sha256, tmp]) await mkdir(path, { recursive: true, mode: 0o700 })
  await chmod(directory, 0o700)
  const owner = `${process.pid}-${(await startTimeOf(process.pid)) ?? 0}`
  await cleanTmp(tmp)

  const imageDirectory = (digest: string) => join(sha256, digest.slice('sha256:'.length))
  const makeWork = async () => {
    const work = join(tmp, `${owner}-${randomUUID()}`)
    await mkdir(work, { mode: 0o700 })
    return work
  }
  const rootfsOf = (digest: string) => join(imageDirectory(digest), 'rootfs')
  /** Takes an image out of sight at once; the rest takes as long as its files do. */
  const moveOut = async (digest: string): Promise<string> => {
    const work = await makeWork()
    await rename(imageDirectory(digest), join(work, 'removed')).catch(ignoreMissing)
    return work
  }

  return {
    makeWork,
    rootfsOf,
    async load() {
      const images: StoredImage[] = []
      for (const hex of await readdir(sha256)) {
        // What cannot be read is not listed; importing it again replaces it.
        const stored = storedSchema.safeParse(await readJson(join(sha256, hex, 'image.json')))
        const digest = `sha256:${hex}`
        if (stored.success && stored.data.digest === digest) images.push({ ...stored.data, rootfs: rootfsOf(digest) })
      }
      const parsed = namesSchema.safeParse(await readJson(namesFile))
      return { images, names: parsed.success ? parsed.data.names : {} }
    },
    async commit(work, image) {
      const whole = join(work, 'image')
      await mkdir(whole, { mode: 0o700 })
      await rename(join(work, 'rootfs'), join(whole, 'rootfs'))
      await writeDurably(join(whole, 'image.json'), storedSchema.parse(image))
      await syncDirectory(whole)
      const leftover = await moveOut(image.digest)
      await rename(whole, imageDirectory(image.digest))
      await syncDirectory(sha256)
      await removeTree(leftover)
    },
    async remove(digest) {
      const removed = await moveOut(digest)
      await syncDirectory(sha256)
      await removeTree(removed)
    },
    async writeNames(names) {
      const work = await makeWork()
      await writeDurably(join(work, 'names.json'), { version: 1, names })
      await rename(join(work, 'names.json'), namesFile)
      await syncDirectory(directory)
      await removeTree(work)
    },
  }
}

const readJson = async (path: string): Promise<unknown> => {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch {
    return undefined
  }
}

const writeDurably = async (path: string, value: unknown): Promise<void> => {
  await writeFile(path, `${JSON.stringify(value, null, 2)}\n`, { flag: 'wx', mode: 0o600 })
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

const ignoreMissing = (cause: NodeJS.ErrnoException) => {
  if (cause.code !== 'ENOENT') throw cause
}

/** Removes the work of processes that are gone: no running process has their id and start time. */
const cleanTmp = async (tmp: string): Promise<void> => {
  for (const name of await readdir(tmp)) {
    const [, pid, startTime] = /^(\d+)-(\d+)-/.exec(name) ?? []
    const lives = pid !== undefined && (await startTimeOf(Number(pid))) === startTime
    if (!lives) await removeTree(join(tmp, name))
  }
}

/** When a process started, in clock ticks since boot (field 22 of proc_pid_stat(5)); undefined where there is none. */
const startTimeOf = async (pid: number): Promise<string | undefined> => {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The program's name, in parentheses, may hold anything; 20 fields follow it up to the start time.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
}
