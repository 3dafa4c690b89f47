import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { Step } from '../fs/disk.ts'
import { until } from '../until.ts'
import { openJournal } from './journal.ts'

/** What is to be done in the lower tier. */
export type Task =
  | { readonly kind: 'blob'; readonly target: BlobHash; readonly does: 'put' | 'remove' }
  | { readonly kind: 'name'; readonly target: string; readonly does: 'put' | 'remove' }

export interface Waiting {
  readonly task: Task
  /** Older ones have lower numbers. */
  readonly number: number
  readonly storedBytes: number
}

/**
 * What waits for the lower tier: one task at most for a blob or a name, the last one asked for. It survives the process at any
 * point. A task that was done may be done again after a crash, and only as long as no later one of the same blob or name was
 * asked for.
 */
export interface UploadQueue {
  /** Resolves when the task is on stable storage. */
  add(task: Task, storedBytes: number): Promise<void>
  get(kind: Task['kind'], target: string): Task | undefined
  /** Oldest first. It may be added to and taken from meanwhile. */
  all(): Iterable<Waiting>
  /** It is done, unless it was asked for again since it was taken. Gives whether nothing of it waits any more. */
  done(waiting: Waiting): boolean
  readonly size: number
  readonly storedBytes: number
  /** Resolves when nothing waits. */
  empty(signal?: AbortSignal): Promise<void>
  close(): Promise<void>
}

interface Entry extends Waiting {
  /** Of the journal's file that has it; undefined until it is there. */
  segment: number | undefined
  readonly durable: Promise<void>
}

const keyOf = (kind: Task['kind'], target: string): string => `${kind} ${target}`
/** Names have no spaces. */
const lineOf = ({ task, number, storedBytes }: Waiting): string =>
  `+ ${number} ${task.kind} ${task.does} ${task.target} ${storedBytes}`
const LINE = /^\+ (\d+) (blob|name) (put|remove) (\S+) (\d+)$/

const waitingOf = (line: string): Waiting | undefined => {
  const [, number, kind, does, target, storedBytes] = LINE.exec(line) ?? []
  if (number === undefined) return undefined
  return { task: { kind, does, target } as Task, number: Number(number), storedBytes: Number(storedBytes) }
}

export const openUploadQueue = async (directory: string, step: Step): Promise<UploadQueue> => {
  const entries = new Map<string, Entry>()
  let last = 0
  let totalBytes = 0
  const insert = (entry: Entry): void => {
    const key = keyOf(entry.task.kind, entry.task.target)
    totalBytes += entry.storedBytes - (entries.get(key)?.storedBytes ?? 0)
    // At the end of the map: it is in the order of age.
    entries.delete(key)
    entries.set(key, entry)
  }

  const keep = (lines: readonly string[]): string[] => {
    const done = new Set<number>()
    for (const line of lines) {
      const waiting = waitingOf(line)
      if (waiting) {
        last = Math.max(last, waiting.number)
        insert({ ...waiting, segment: 0, durable: Promise.resolve() })
      } else done.add(Number(/^- (\d+)$/.exec(line)?.[1]))
    }
    // Only the last task of each counts, whether its end was noted or not: an earlier one must not be done after it.
    for (const [key, { number, storedBytes }] of entries)
      if (done.has(number)) {
        entries.delete(key)
        totalBytes -= storedBytes
      }
    return [...entries.values()].map(lineOf)
  }
  const journal = await openJournal(directory, keep, step)

  for (const entry of entries.values()) entry.segment = journal.first
  let newest = journal.first
  let emptied: PromiseWithResolvers<void> | undefined
  let forgetting: Promise<void> | undefined
  /** Files are removed oldest first, so that no end of a task goes before the task does. */
  const forget = async (): Promise<void> => {
    let oldest = newest
    for (const { segment } of entries.values()) {
      if (segment === undefined) return
      oldest = Math.min(oldest, segment)
    }
    await journal.forget(oldest)
  }
  let notes = 0
  let closed = false
  const closedError = (): BrambleError =>
    new BrambleError('shutting_down', { detail: 'the store was closed before all was uploaded' })

  return {
    add: async (task, storedBytes) => {
      const key = keyOf(task.kind, task.target)
      const present = entries.get(key)
      // A blob is always the same; of a name, there may be another value than the one that is on its way.
      if (present && task.kind === 'blob' && present.task.does === task.does) return await present.durable
      const waiting = { task, number: ++last, storedBytes }
      const added = journal.add(lineOf(waiting))
      const entry: Entry = { ...waiting, segment: undefined, durable: added.then(() => undefined) }
      entry.durable.catch(() => undefined)
      insert(entry)
      try {
        entry.segment = await added
        newest = entry.segment
      } catch (thrown) {
        if (entries.get(key) === entry) {
          entries.delete(key)
          totalBytes -= storedBytes
          if (present) insert(present)
        }
        throw thrown
      }
    },
    get: (kind, target) => entries.get(keyOf(kind, target))?.task,
    all: () => entries.values(),
    done: ({ task, number, storedBytes }) => {
      const key = keyOf(task.kind, task.target)
      journal.note(`- ${number}`)
      const isLast = entries.get(key)?.number === number
      if (isLast) {
        entries.delete(key)
        totalBytes -= storedBytes
      }
      if (++notes % 1000 === 0)
        forgetting ??= forget()
          .catch(() => undefined)
          .finally(() => {
            forgetting = undefined
          })
      if (entries.size === 0) {
        emptied?.resolve()
        emptied = undefined
      }
      return isLast
    },
    get size() {
      return entries.size
    },
    get storedBytes() {
      return totalBytes
    },
    empty: async (signal) => {
      while (entries.size > 0) {
        if (closed) throw closedError()
        emptied ??= Promise.withResolvers()
        await until(emptied.promise, signal)
      }
    },
    close: async () => {
      closed = true
      emptied?.reject(closedError())
      emptied?.promise.catch(() => undefined)
      await forgetting
      await journal.close()
    },
  }
}
