import type { SandboxChange } from '@bramble/runtime'
import { createChannel } from '../channel.ts'

/** One observer of a sandbox for all who ask, while anybody does. */
export interface SharedObserver {
  /** What is there, then what changes, until `signal` aborts or the sandbox ends. */
  observe(signal: AbortSignal): AsyncIterable<SandboxChange>
}

interface Watcher {
  readonly push: (change: SandboxChange) => void
  readonly end: (error?: unknown) => void
}

/** Changes that wait for somebody who does not take them; past it they are lost to that one. */
const MAX_WAITING_CHANGES = 10_000

const nameOf = (change: SandboxChange): string =>
  change.type === 'process' ? `${change.pid}` : `${change.port} ${change.address}`

export const shareObserver = (open: (signal: AbortSignal) => AsyncIterable<SandboxChange>): SharedObserver => {
  const watchers = new Set<Watcher>()
  /** What is there now: whoever joins later is told first. */
  const present = new Map<string, SandboxChange>()
  let stop: AbortController | undefined

  const note = (change: SandboxChange): void => {
    if (change.event === 'start' || change.event === 'open') present.set(nameOf(change), change)
    else present.delete(nameOf(change))
  }

  const run = async (controller: AbortController): Promise<void> => {
    let failure: { error: unknown } | undefined
    try {
      for await (const change of open(controller.signal)) {
        // Others have joined since, and have an observer of their own.
        if (stop !== controller) return
        note(change)
        for (const watcher of watchers) watcher.push(change)
      }
    } catch (error) {
      failure = { error }
    }
    if (stop !== controller) return
    stop = undefined
    present.clear()
    for (const watcher of [...watchers]) watcher.end(failure?.error)
  }

  const join = (watcher: Watcher): void => {
    watchers.add(watcher)
    if (stop) {
      for (const change of present.values()) watcher.push(change)
      return
    }
    stop = new AbortController()
    void run(stop)
  }
  const leave = (watcher: Watcher): void => {
    if (!watchers.delete(watcher) || watchers.size > 0) return
    present.clear()
    stop?.abort()
    stop = undefined
  }

  return {
    async *observe(signal) {
      signal.throwIfAborted()
      let waiting = 0
      let failure: unknown
      const channel = createChannel<SandboxChange>({ highWaterBytes: Number.POSITIVE_INFINITY })
      const watcher: Watcher = {
        push(change) {
          if (waiting >= MAX_WAITING_CHANGES) return
          waiting++
          channel.push(change)
        },
        end(error) {
          failure = error
          channel.end()
        },
      }
      const onAbort = (): void => watcher.end(signal.reason)
      signal.addEventListener('abort', onAbort)
      join(watcher)
      try {
        for await (const change of channel) {
          waiting--
          yield change
        }
        if (failure !== undefined) throw failure
      } finally {
        signal.removeEventListener('abort', onAbort)
        leave(watcher)
      }
    },
  }
}
