import { open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { isErrno, onDisk } from '../fs/fs-error.ts'
import type { TieredContext } from './context.ts'
import { syncDirectory } from './journal.ts'
import type { Task } from './upload-queue.ts'

/** Queued at once, and flushed together. */
const batch = 1000
const pauseMaxMs = 60_000

/**
 * Finds out whether the shared tier is the one that this local tier was filled for, as soon as it answers. When it is another
 * one (a new bucket, or the first one), all that is here is queued for it. Resolves with true when both belong together; with
 * false when it was ended before.
 */
export const bindTiers = async (
  context: TieredContext,
  { directory, signal, firstPauseMs }: { directory: string; signal: AbortSignal; firstPauseMs: number },
): Promise<boolean> => {
  const file = join(directory, 'shared')
  let pauseMs = firstPauseMs
  while (!signal.aborted) {
    try {
      const identity = await context.shared.identity?.({ signal })
      if (identity === undefined) return true
      if ((await readText(file)) !== identity) {
        await queueAll(context, signal)
        await context.step('bind')
        await onDisk(() => replaceFile(directory, file, identity))
      }
      context.background(sweep(context, signal))
      return true
    } catch {
      // Whatever it is, the queue reports it: the same tier, or the same disk.
      await pause(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
      pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
    }
  }
  return false
}

const sweep = async ({ shared }: TieredContext, signal: AbortSignal): Promise<void> => {
  await shared.sweep?.({ signal })
}

const queueAll = async ({ local, queue, kick }: TieredContext, signal: AbortSignal): Promise<void> => {
  let adding: Promise<void>[] = []
  const add = async (task: Task, storedBytes: number): Promise<void> => {
    // What was removed here is to be removed there.
    if (queue.get(task.kind, task.target)) return
    adding.push(queue.add(task, storedBytes))
    if (adding.length < batch) return
    const all = adding
    adding = []
    await Promise.all(all)
  }
  for await (const { hash, storedBytes } of local.list({ signal }))
    await add({ kind: 'blob', target: hash, does: 'put' }, storedBytes)
  for await (const name of local.names.list('', { signal })) await add({ kind: 'name', target: name, does: 'put' }, 0)
  await Promise.all(adding)
  kick()
}

const readText = async (path: string): Promise<string | undefined> => {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (isErrno(cause, 'ENOENT')) return undefined
    throw cause
  }
}

const replaceFile = async (directory: string, path: string, text: string): Promise<void> => {
  const handle = await open(`${path}.tmp`, 'w', 0o600)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(`${path}.tmp`, path)
  await syncDirectory(directory)
}
