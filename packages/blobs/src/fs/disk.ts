import { randomUUID } from 'node:crypto'
import * as fs from 'node:fs'
import { type FileHandle, mkdir, readdir, readFile, rename, rm, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { isErrno } from './fs-error.ts'

const fdatasync = promisify(fs.fdatasync)
const fsync = promisify(fs.fsync)
const write = promisify(fs.write)

/** So few bytes are in the page cache sooner than another thread has heard of them. */
const atOnceBytes = 16 * 1024

/** Called before each change of the disk, with its name: a test kills the process there, or records the order. */
export type Step = (what: string) => void | Promise<void>

/**
 * Files that are whole, or not there. A file is written under a name in `tmp/`, flushed, renamed, and its directory is
 * flushed: fsync(2) of a file says nothing of the entry that leads to it.
 */
export interface Disk {
  readonly step: Step
  create(): Promise<TempFile>
  /** Flushes the entries of a directory. Those who ask while one is under way share the next. */
  syncDirectory(path: string): Promise<void>
  /** The same, where it is not known that a flush has followed the last change of an entry there. */
  ensureSynced(path: string): Promise<void>
  /** `mkdir -p` from `root` down, each level flushed. What it made already is not looked at again, unless `again`. */
  makeDirectories(root: string, segments: readonly string[], again?: boolean): Promise<void>
  close(): Promise<void>
}

export interface TempFile {
  readonly path: string
  /** Appends. The next write waits for the one before. */
  write(bytes: Uint8Array): Promise<void>
  /** Flushes and closes it. */
  finish(): Promise<void>
  /** Gives it its name, and flushes the directory. */
  publish(directory: string, name: string): Promise<void>
  /** Closes it, and removes what was not published. Safe twice. */
  [Symbol.asyncDispose](): Promise<void>
}

/** Directories that need not be looked at again: as many as names of one prefix have. */
const madeMax = 4096

/** `durable` false: nothing is flushed, and a power failure may leave anything. */
export const openDisk = async (tmp: string, step: Step, durable = true): Promise<Disk> => {
  const mine = `${await processName(process.pid)}-${randomUUID().slice(0, 8)}`
  const folder = join(tmp, mine)
  await removeLeftovers(tmp)
  const syncs = new Map<string, { running: Promise<void>; next?: Promise<void> }>()
  const synced = new Set<string>()
  const made = new Set<string>()
  let folderMade: Promise<unknown> | undefined
  let count = 0

  const flush = async (path: string): Promise<void> => {
    await step('directory.sync')
    if (!durable) return
    // A directory in which a file has just been made or renamed is in memory: opening it waits for no disk.
    const fd = fs.openSync(path, 'r')
    try {
      await fsync(fd)
    } finally {
      fs.closeSync(fd)
    }
    synced.add(path)
  }
  const start = (path: string): Promise<void> => {
    synced.delete(path)
    const running = flush(path).finally(() => {
      if (syncs.get(path)?.running === running) syncs.delete(path)
    })
    syncs.set(path, { running })
    return running
  }
  const syncDirectory = (path: string): Promise<void> => {
    const state = syncs.get(path)
    if (!state) return start(path)
    const next = (): Promise<void> => start(path)
    state.next ??= state.running.then(next, next)
    return state.next
  }

  return {
    step,
    create: async () => {
      folderMade ??= mkdir(folder, { mode: 0o700 })
      await folderMade.catch((cause) => {
        folderMade = undefined
        throw cause
      })
      await step('temp.create')
      const path = join(folder, String(count++))
      const fd = fs.openSync(path, 'wx', 0o600)
      let opened = true
      let there = true
      let position = 0
      const close = (): void => {
        if (opened) fs.closeSync(fd)
        opened = false
      }
      return {
        path,
        write: async (bytes) => {
          await step('temp.write')
          for (let at = 0; at < bytes.length; ) {
            const left = bytes.length - at
            const atOnce = left <= atOnceBytes
            const written = atOnce
              ? fs.writeSync(fd, bytes, at, left, position)
              : (await write(fd, bytes, at, left, position)).bytesWritten
            at += written
            position += written
          }
        },
        finish: async () => {
          await step('temp.sync')
          if (durable) await fdatasync(fd)
          close()
        },
        publish: async (directory, name) => {
          await step('rename')
          synced.delete(directory)
          await rename(path, join(directory, name))
          there = false
          await syncDirectory(directory)
        },
        [Symbol.asyncDispose]: async () => {
          close()
          if (there) await unlink(path).catch(() => undefined)
          there = false
        },
      }
    },
    syncDirectory,
    ensureSynced: async (path) => {
      if (!synced.has(path)) await syncDirectory(path)
    },
    makeDirectories: async (root, segments, again = false) => {
      const whole = join(root, ...segments)
      if (made.has(whole) && !again) return
      let path = root
      for (const segment of segments) {
        const parent = path
        path = join(path, segment)
        await step('mkdir')
        synced.delete(parent)
        await mkdir(path, { mode: 0o700 }).catch((cause) => {
          if (!isErrno(cause, 'EEXIST')) throw cause
        })
        await syncDirectory(parent)
      }
      if (made.size >= madeMax) made.clear()
      made.add(whole)
    },
    close: () => rm(folder, { recursive: true, force: true }).catch(() => undefined),
  }
}

/** All of the bytes, however few write(2) takes at once. Gives the position after them. */
export const writeAll = async (handle: FileHandle, bytes: Uint8Array, position: number): Promise<number> => {
  let at = 0
  while (at < bytes.length) at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten
  return position + at
}

/** Files that an earlier process was writing when it ended. */
const removeLeftovers = async (tmp: string): Promise<void> => {
  const folders = await readdir(tmp).catch((cause) => {
    if (isErrno(cause, 'ENOENT')) return []
    throw cause
  })
  for (const folder of folders) {
    const pid = Number(/-(\d+)-\d+-[^-]+$/.exec(folder)?.[1])
    const alive = Number.isSafeInteger(pid) && folder.startsWith(`${await processName(pid)}-`)
    if (!alive) await rm(join(tmp, folder), { recursive: true, force: true }).catch(ignoreReadOnly)
  }
}

const ignoreReadOnly = (cause: unknown): void => {
  if (!isErrno(cause, 'EROFS', 'EACCES', 'EPERM')) throw cause
}

/** A name that no other process has, later ones with the same pid included: boot, pid, and when it was started (proc(5)). */
const processName = async (pid: number): Promise<string> => {
  const read = (path: string): Promise<string> => readFile(path, 'latin1').catch(() => '')
  const [boot, stat] = await Promise.all([read('/proc/sys/kernel/random/boot_id'), read(`/proc/${pid}/stat`)])
  // Field 22; the second one, in parentheses, may hold anything.
  const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '0'
  return `${boot.slice(0, 8) || 'boot'}-${pid}-${started}`
}
