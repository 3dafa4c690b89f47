import { type FileHandle, mkdir, open, readdir, readFile, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { type Step, writeAll } from '../fs/disk.ts'
import { isErrno, onDisk } from '../fs/fs-error.ts'

/**
 * Lines that outlive the process, in files that are only appended to. What a crash cut off is not read, and neither is a line
 * whose checksum is wrong.
 */
export interface Journal {
  /** The number of the file that has what was kept. */
  readonly first: number
  /** Resolves with the number of its file when the line is on stable storage. Lines that wait are flushed together. */
  add(line: string): Promise<number>
  /** Is written soon, and not flushed: a crash of the host may lose it. */
  note(line: string): void
  /** Removes the files before the one of this number, oldest first. */
  forget(before: number): Promise<void>
  close(): Promise<void>
}

/** A file is followed by the next one at this size. */
const segmentBytesMax = 1024 * 1024
const SEGMENT = /^(\d{12})\.log$/
const nameOf = (segment: number): string => `${String(segment).padStart(12, '0')}.log`
/** Each line begins with the CRC-32 of the rest. */
const framed = (line: string): string => `${crc32(line).toString(16).padStart(8, '0')} ${line}`

const linesOf = (text: string): string[] =>
  text.split('\n').flatMap((each) => {
    const line = each.slice(9)
    return each === framed(line) ? [line] : []
  })

/**
 * Reads what earlier processes left, in order, and goes on with one file of the lines that `keep` gives. A disk that cannot be
 * written can be read.
 */
export const openJournal = async (
  directory: string,
  keep: (lines: readonly string[]) => readonly string[],
  step: Step,
): Promise<Journal> => {
  const segments = await onDisk(async () => {
    await mkdir(directory, { recursive: true, mode: 0o700 }).catch(unlessReadOnly)
    const names = await readdir(directory).catch(unlessReadOnly)
    return (names ?? []).flatMap((name) => (SEGMENT.test(name) ? [Number.parseInt(name, 10)] : [])).sort(byNumber)
  })
  const read: string[] = []
  for (const segment of segments)
    read.push(...linesOf(await onDisk(() => readFile(join(directory, nameOf(segment)), 'latin1'))))

  let current: { readonly segment: number; readonly handle: FileHandle; length: number } | undefined
  /** Begins the next file with these lines; the file has its name when they are flushed. */
  const begin = async (lines: readonly string[]): Promise<NonNullable<typeof current>> => {
    const segment = (segments.at(-1) ?? 0) + 1
    const path = join(directory, nameOf(segment))
    await step('queue.create')
    const handle = await open(`${path}.tmp`, 'w', 0o600)
    try {
      const length = await writeAll(handle, Buffer.from(lines.map((line) => `${framed(line)}\n`).join('')), 0)
      await handle.sync()
      await step('queue.rename')
      await rename(`${path}.tmp`, path)
      await syncDirectory(directory)
      await current?.handle.close()
      segments.push(segment)
      current = { segment, handle, length }
      return current
    } catch (thrown) {
      await handle.close().catch(() => undefined)
      throw thrown
    }
  }
  const forget = async (before: number): Promise<void> => {
    while (segments[0] !== undefined && segments[0] < before) {
      await step('queue.forget')
      await unlink(join(directory, nameOf(segments[0]))).catch((cause) => {
        if (!isErrno(cause, 'ENOENT')) throw cause
      })
      segments.shift()
    }
  }
  const lines = keep(read)
  if (read.length > 0)
    await onDisk(async () => forget((await begin(lines)).segment)).catch((thrown) => {
      if ((thrown as { code?: string }).code !== 'store_read_only') throw thrown
    })

  let waiting: string[] = []
  let flushWanted = false
  let next: Promise<number> | undefined
  let tail: Promise<unknown> = Promise.resolve()
  const write = async (): Promise<number> => {
    const [batch, flush] = [waiting, flushWanted]
    waiting = []
    flushWanted = false
    next = undefined
    const file = current && current.length < segmentBytesMax ? current : await begin([])
    await step('queue.append')
    // At its place, so that what a full disk left of an earlier try is written over.
    const end = await writeAll(file.handle, Buffer.from(batch.map((line) => `${framed(line)}\n`).join('')), file.length)
    if (flush) {
      await step('queue.sync')
      await file.handle.datasync()
    }
    file.length = end
    return file.segment
  }
  const enqueue = (line: string, flush: boolean): Promise<number> => {
    waiting.push(line)
    flushWanted ||= flush
    next ??= tail.then(() => onDisk(write))
    tail = next.catch(() => undefined)
    return next
  }
  return {
    first: segments.at(-1) ?? 0,
    add: (line) => enqueue(line, true),
    note: (line) => {
      enqueue(line, false).catch(() => undefined)
    },
    forget: (before) => onDisk(() => forget(before)),
    close: async () => {
      await tail
      await current?.handle.close()
      current = undefined
    },
  }
}

const byNumber = (left: number, right: number): number => left - right

/** Makes the entries of a directory durable. */
export const syncDirectory = async (directory: string): Promise<void> => {
  const handle = await open(directory)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const unlessReadOnly = (cause: unknown): undefined => {
  if (isErrno(cause, 'EROFS', 'ENOENT')) return undefined
  throw cause
}
