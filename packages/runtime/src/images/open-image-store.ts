import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { byteBudget } from './byte-budget.ts'
import { removeTree } from './host-file.ts'
import { openImageDisk } from './image-disk.ts'
import { imageIndex, type StoredImage } from './image-index.ts'
import type { ImageSource, ImageStore, ImportOptions, ImportProgress, LocalImage } from './image-store.ts'
import { locate } from './locate.ts'
import { type ImportContext, type Located, layoutPath } from './located.ts'
import { DEFAULT_TOOLS, type ImageTools } from './run-tool.ts'
import { sharedWork } from './shared-work.ts'
import { fillRootfs, unpackLayout } from './unpack-layout.ts'

export interface ImageStoreOptions {
  /** Made if it is missing. The images of one node. */
  readonly directory: string
  /** Largest image, in bytes: its plain layers together, and separately what is pulled or copied of it. */
  readonly maxImageBytes?: number
  /** Most entries (files, directories, links) of all layers together. */
  readonly maxImageEntries?: number
  /** Programs by another name or path than the usual. */
  readonly tools?: Partial<ImageTools>
}

export const DEFAULT_MAX_IMAGE_BYTES = 16 * 1024 ** 3
export const DEFAULT_MAX_IMAGE_ENTRIES = 1_000_000

const IMAGE_NAME = /^[a-z0-9]([a-z0-9._/-]{0,126}[a-z0-9])?(:[A-Za-z0-9._-]{1,127})?$/

/** Opens the images of a directory: loads what is there, and removes what a crash left. */
export const openImageStore = async (options: ImageStoreOptions): Promise<ImageStore> => {
  const tools = { ...DEFAULT_TOOLS, ...options.tools }
  const maxBytes = options.maxImageBytes ?? DEFAULT_MAX_IMAGE_BYTES
  const maxEntries = options.maxImageEntries ?? DEFAULT_MAX_IMAGE_ENTRIES
  const disk = await openImageDisk(options.directory)
  const index = imageIndex()
  const jobs = sharedWork<void, ImportProgress>()
  const oneAtATime = queue()

  const loaded = await disk.load()
  for (const image of loaded.images) index.put(image)
  for (const [name, digest] of Object.entries(loaded.names)) if (index.get(digest)) index.setName(name, digest)

  /** The costly part, once per digest: what it leaves is an image that is on disk and can be found. */
  const bringIn = async (located: Located, context: ImportContext): Promise<void> => {
    const config = await located.fetch(context)
    const rootfs = join(context.work, 'rootfs')
    const sizeBytes = located.fill
      ? await fillRootfs(rootfs, located.fill, context)
      : await unpackLayout(layoutPath(context), rootfs, context)
    context.progress({ phase: 'commit', message: 'putting it in place' })
    const image: StoredImage = {
      digest: located.digest,
      source: located.source,
      sizeBytes,
      createdAt: new Date().toISOString(),
      config: { env: { ...config.env }, workdir: config.workdir, user: config.user },
      rootfs: disk.rootfsOf(located.digest),
    }
    await oneAtATime(async () => {
      context.signal.throwIfAborted()
      await disk.commit(context.work, image)
      index.put(image)
    })
  }

  const setName = (name: string, digest: string): Promise<void> =>
    oneAtATime(async () => {
      index.setName(name, digest)
      await disk.writeNames(index.names())
    })

  const importImage = async (source: ImageSource, importOptions: ImportOptions = {}): Promise<LocalImage> => {
    const { name, signal = new AbortController().signal, onProgress = () => {} } = importOptions
    if (name !== undefined) checkName(name)
    signal.throwIfAborted()
    const work = await disk.makeWork()
    const contextOf = (signal: AbortSignal, progress: ImportContext['progress']): ImportContext => {
      return { tools, work, bytes: byteBudget(maxBytes), entries: { maxEntries, usedEntries: 0 }, signal, progress }
    }
    // Until the shared job takes it over, which may outlive this caller.
    let ownsWork = true
    try {
      const located = await locate(source, contextOf(signal, onProgress))
      if (!index.get(located.digest)) {
        const start = (jobSignal: AbortSignal, report: ImportContext['progress']) => {
          ownsWork = false
          return bringIn(located, contextOf(jobSignal, report)).finally(() => removeTree(work))
        }
        await jobs.run(located.digest, { signal, onProgress }, start, () => removeTree(work))
      }
      const given = name ?? usableName(located.defaultName)
      if (given !== undefined) await setName(given, located.digest)
      return index.resolve(located.digest)
    } catch (cause) {
      throw signal.aborted ? signal.reason : cause
    } finally {
      if (ownsWork) await removeTree(work)
    }
  }

  return {
    resolve: index.resolve,
    list: index.list,
    import: importImage,
    async remove(digest, { inUse }) {
      const image = index.resolve(digest)
      if (inUse(image.digest)) throw new BrambleError('image_in_use', { detail: `a sandbox runs on ${image.digest}` })
      index.delete(image.digest)
      await oneAtATime(async () => {
        await disk.writeNames(index.names())
        await disk.remove(image.digest)
      })
    },
  }
}

/** A name that could be taken for a digest would hide the image of that digest. */
const isName = (name: string): boolean => IMAGE_NAME.test(name) && !name.startsWith('sha256:')

const usableName = (name: string | undefined): string | undefined =>
  name !== undefined && isName(name) ? name : undefined

const checkName = (name: string): void => {
  if (isName(name)) return
  const detail = `${JSON.stringify(name.slice(0, 200))} is not an image name (lower case, as in python:3.12)`
  throw new BrambleError('invalid_request', { detail, issues: [{ path: 'name', message: 'is not an image name' }] })
}

/** Runs what it is given in order, one at a time; a failure is its caller's alone. */
const queue = () => {
  let last: Promise<unknown> = Promise.resolve()
  return <T>(work: () => Promise<T>): Promise<T> => {
    const mine = last.then(work)
    last = mine.catch(() => {})
    return mine
  }
}
