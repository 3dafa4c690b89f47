import type { InstanceLease } from '@bramble/engine'
import { BrambleError, LIMITS } from '@bramble/protocol'
import { namesAsText } from '../files/entries.ts'
import type { LiveSocket } from './live-socket.ts'

/** What one connection watches, each by a program in the sandbox that goes at the client's pace. */
export interface Watches {
  /** Those that tell of every change from now on. */
  ready(): string[]
  add(path: string, recursive: boolean): void
  remove(path: string): void
}

export interface WatchesOptions {
  readonly lease: InstanceLease
  readonly socket: LiveSocket
  /** Ends all of them. */
  readonly signal: AbortSignal
  /** One is ready, or gone. */
  readonly onChange: () => void
  /** One ended that nobody ended. */
  readonly onFailure: (error: unknown) => Promise<void>
}

export const watches = ({ lease, socket, signal, onChange, onFailure }: WatchesOptions): Watches => {
  const all = new Map<string, { readonly stop: AbortController; ready: boolean }>()
  /** Programs in the sandbox, those that are still ending included. */
  let running = 0

  const follow = async (path: string, recursive: boolean, watch: { stop: AbortController; ready: boolean }) => {
    const ended = AbortSignal.any([signal, watch.stop.signal])
    running++
    try {
      for await (const change of lease.files.watch(path, { recursive, signal: ended })) {
        if (change.event === 'ready') {
          watch.ready = true
          onChange()
          continue
        }
        const wait = socket.send(eventText(path, change))
        if (wait) await wait
      }
    } catch (error) {
      if (!ended.aborted) await onFailure(error)
    } finally {
      running--
      if (all.get(path) === watch) all.delete(path)
      if (!signal.aborted) onChange()
    }
  }

  return {
    ready: () => [...all].flatMap(([path, watch]) => (watch.ready ? [path] : [])),
    add: (path, recursive) => {
      if (all.has(path)) throw new BrambleError('conflict', { detail: `\`${path}\` is watched already` })
      if (running >= LIMITS.maxStreamWatches.value)
        throw new BrambleError('quota_exceeded', { detail: `${running} paths are watched by this connection` })
      const watch = { stop: new AbortController(), ready: false }
      all.set(path, watch)
      void follow(path, recursive, watch)
    },
    remove: (path) => {
      const watch = all.get(path)
      if (!watch) throw new BrambleError('not_found', { detail: `\`${path}\` is not watched` })
      all.delete(path)
      watch.stop.abort()
    },
  }
}

type Change = Exclude<
  ReturnType<InstanceLease['files']['watch']> extends AsyncIterable<infer Each> ? Each : never,
  { event: 'ready' }
>

const eventText = (watched: string, change: Change): string => {
  if (change.event === 'overflow') return JSON.stringify({ type: 'file_event', path: watched, event: 'overflow' })
  const { event, path, isDirectory } = change
  const names = namesAsText({ path, to: 'to' in change ? change.to : undefined })
  return JSON.stringify({ type: 'file_event', ...names, event, ...(isDirectory && { isDirectory }) })
}
