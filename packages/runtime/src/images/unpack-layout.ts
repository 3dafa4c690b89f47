import { lstat, mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { imageInvalid } from './image-errors.ts'
import type { FillRootfs, OnImportProgress } from './image-store.ts'
import { LAYOUT_TAG } from './oci-layout.ts'
import { type ImageTools, lastWords, runTool, startTool } from './run-tool.ts'

const WATCH_MS = 200

export interface UnpackOptions {
  readonly tools: Pick<ImageTools, 'umoci' | 'sync'>
  readonly signal: AbortSignal
  readonly progress: OnImportProgress
}

/**
 * Unpacks the one image of a layout written here into `rootfs`, and puts it on disk. As root, files get the owners and
 * modes the image gives them, set-user-id bits included; otherwise everything belongs to the node's user.
 * Gives the bytes of its files.
 */
export const unpackLayout = async (layout: string, rootfs: string, options: UnpackOptions): Promise<number> => {
  const { tools, signal } = options
  options.progress({ phase: 'unpack', message: 'unpacking', fraction: 0 })
  const rootless = process.getuid?.() === 0 ? [] : ['--rootless']
  const image = ['--image', `${layout}:${LAYOUT_TAG}`]
  const umoci = startTool(tools.umoci, ['raw', 'unpack', ...rootless, ...image, rootfs], { signal })
  umoci.stdout.resume()
  const watch = await watchReading(umoci.pid, layout, options.progress)
  const { exitCode, message } = await umoci.ended.finally(() => clearInterval(watch))
  if (exitCode !== 0) throw imageInvalid(`it cannot be unpacked: ${lastWords(message)}`)
  return settleOnDisk(rootfs, options)
}

/** As `unpackLayout`, of what `fill` writes. */
export const fillRootfs = async (rootfs: string, fill: FillRootfs, options: UnpackOptions): Promise<number> => {
  options.progress({ phase: 'unpack', message: 'writing the files' })
  await mkdir(rootfs, { mode: 0o755 })
  await fill(rootfs, options)
  return settleOnDisk(rootfs, options)
}

const settleOnDisk = async (rootfs: string, { tools, signal }: UnpackOptions): Promise<number> => {
  const sizeBytes = await settleTree(rootfs, signal)
  const synced = await runTool(tools.sync, ['--file-system', rootfs], { signal })
  if (synced.exitCode !== 0) throw new Error(`sync failed: ${lastWords(synced.message)}`)
  return sizeBytes
}

/** umoci says nothing while it works; the kernel says how much of the layers it has read (proc_pid_io(5)). */
const watchReading = async (pid: number | undefined, layout: string, progress: OnImportProgress) => {
  const blobs = join(layout, 'blobs', 'sha256')
  let totalBytes = 0
  for (const name of await readdir(blobs)) totalBytes += (await lstat(join(blobs, name))).size
  return setInterval(async () => {
    const io = await readFile(`/proc/${pid}/io`, 'utf8').catch(() => '')
    const readBytes = Number(/^rchar: (\d+)/.exec(io)?.[1] ?? 0)
    if (readBytes > 0)
      progress({ phase: 'unpack', message: 'unpacking', fraction: Math.min(1, readBytes / totalBytes) })
  }, WATCH_MS)
}

/** Counts the bytes of a tree's files, each inode once, and removes device nodes should any have come so far. */
const settleTree = async (root: string, signal?: AbortSignal): Promise<number> => {
  let bytes = 0
  const linked = new Set<number>()
  // Names are bytes, in whatever encoding.
  const pending = [Buffer.from(root)]
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    signal?.throwIfAborted()
    for (const entry of await readdir(directory, { encoding: 'buffer', withFileTypes: true })) {
      const path = Buffer.concat([directory, SLASH, entry.name])
      if (entry.isDirectory()) pending.push(path)
      else if (entry.isBlockDevice() || entry.isCharacterDevice()) await rm(path)
      else if (entry.isFile()) {
        const stat = await lstat(path)
        if (stat.nlink === 1 || !linked.has(stat.ino)) bytes += stat.size
        if (stat.nlink > 1) linked.add(stat.ino)
      }
    }
  }
  return bytes
}

const SLASH = Buffer.from('/')
