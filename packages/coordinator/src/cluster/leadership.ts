import { toBrambleError } from '@bramble/protocol'
import type { Network } from '../network/network.ts'
import type { Store, WriterLease } from '../store/store.ts'
import type { PresentWriter } from './present-writer.ts'

export interface LeadershipOptions {
  readonly store: Store
  /** Of this coordinator; unlike any other's. */
  readonly name: string
  /** Where the others link to it, if it writes. */
  readonly url: string
  readonly ttlMs: number
  readonly present: PresentWriter
  /** Opens the writer of that epoch; `onFail` says that it cannot go on. */
  readonly openWriter: (epoch: number, onFail: (error: unknown) => void) => Promise<Network>
  /** Opens a link to the coordinator that writes; `onClosed` says that it is over. */
  readonly openLink: (url: string, onClosed: () => void) => Promise<Network>
  /** This coordinator took the lease, or gave it up. */
  readonly changed: () => void
  /** Told when this coordinator begins and ceases to write, and what goes wrong. */
  readonly log: (event: LeadershipEvent) => void
}

export type LeadershipEvent =
  | { readonly type: 'leads'; readonly epoch: number }
  | { readonly type: 'led'; readonly epoch: number; readonly reason: string }
  | { readonly type: 'follows'; readonly name: string; readonly url: string }
  | { readonly type: 'trouble'; readonly doing: string; readonly error: unknown }

export interface Leadership {
  /** Something may have changed: looks at once. */
  look(): void
  /** Gives the lease up, if it has it, when the writer is closed. */
  close(): Promise<void>
}

/** After something failed, before it is tried again. */
const PAUSE_MS = 250
/** Waiting coordinators do not all come at once. */
const SPREAD_MS = 100

/**
 * Takes the writer's lease when nobody has it, and renews it at a third of its time; else links to who has it. Looks again when the
 * lease runs out, when it is told that something changed, and when the link breaks.
 */
export const openLeadership = (options: LeadershipOptions): Leadership => {
  const { store, name, url, ttlMs, present, changed, log } = options
  let closing = false
  let changes = 0
  let wake = (): void => {}
  let stop = (): void => {}
  let link: { readonly url: string; readonly network: Network } | undefined
  /** Of the writer that was here last: the store may not answer what it wrote last, and nobody else waits for that. */
  let ending: Promise<void> | undefined

  const look = (): void => {
    changes++
    wake()
  }
  /** Ends early when something changed since `seen`. */
  const pause = async (ms: number, seen: number): Promise<void> => {
    if (closing || changes !== seen) return
    const { promise, resolve } = Promise.withResolvers<void>()
    wake = resolve
    const timer = setTimeout(resolve, ms)
    await promise
    clearTimeout(timer)
  }
  const dropLink = async (): Promise<void> => {
    const dropped = link
    link = undefined
    if (!dropped) return
    if (present.network === dropped.network) present.set(undefined)
    await dropped.network.close()
  }

  /** Until the lease is lost, the writer fails, or this coordinator ends. */
  const lead = async (epoch: number, takenAt: number): Promise<void> => {
    await dropLink()
    const over = Promise.withResolvers<string>()
    stop = () => over.resolve('it ends')
    if (closing) stop()
    const endRenewing = renewing(epoch, takenAt, over.resolve)
    let writer: Network | undefined
    try {
      const opening = options.openWriter(epoch, (error) => over.resolve(toBrambleError(error).detail))
      writer = await opening
      log({ type: 'leads', epoch })
      changed()
      present.set(writer)
      const reason = await over.promise
      log({ type: 'led', epoch, reason })
    } finally {
      endRenewing()
      stop = () => {}
      present.set(undefined)
      ending = end(writer, epoch).finally(() => {
        ending = undefined
        look()
      })
    }
  }
  const end = async (writer: Network | undefined, epoch: number): Promise<void> => {
    try {
      await writer?.close()
      await store.release(epoch)
    } catch (error) {
      log({ type: 'trouble', doing: 'release the lease', error })
    }
    changed()
  }
  /** Whoever writes, or this one where nobody does; but not before its last writer is done, for they write by one connection. */
  const holder = async (): Promise<WriterLease> => {
    if (!ending) return store.acquire({ name, url, ttlMs })
    const other = await store.writer()
    if (other) return { held: false, ...other, leftMs: PAUSE_MS }
    return { held: false, name, url, leftMs: PAUSE_MS }
  }

  const renewing = (epoch: number, takenAt: number, lost: (reason: string) => void): (() => void) => {
    let until = takenAt + ttlMs
    let ended = false
    let timer: NodeJS.Timeout
    const expired = setInterval(() => {
      // Another may have it by now.
      if (performance.now() >= until) lost('the lease ran out before it could be renewed')
    }, ttlMs / 20)
    const renew = async (): Promise<void> => {
      const at = performance.now()
      try {
        if (await store.renew(epoch, ttlMs)) until = at + ttlMs
        else lost('another coordinator took the lease')
      } catch (error) {
        log({ type: 'trouble', doing: 'renew the lease', error })
      }
      if (!ended) timer = setTimeout(renew, ttlMs / 3)
    }
    timer = setTimeout(renew, ttlMs / 3)
    return () => {
      ended = true
      clearTimeout(timer)
      clearInterval(expired)
    }
  }

  const follow = async (holder: { readonly name: string; readonly url: string }): Promise<void> => {
    if (link?.url === holder.url && present.network === link.network) return
    await dropLink()
    // One of this name that died: its lease runs out.
    if (holder.url === url) return
    const network = await options.openLink(holder.url, () => {
      if (link?.network === network) link = undefined
      if (present.network === network) present.set(undefined)
      look()
    })
    if (closing) return network.close()
    link = { url: holder.url, network }
    present.set(network)
    log({ type: 'follows', ...holder })
  }

  const run = async (): Promise<void> => {
    while (!closing) {
      const seen = changes
      let pauseMs = PAUSE_MS
      try {
        const takenAt = performance.now()
        const lease = await holder()
        if (lease.held) await lead(lease.epoch, takenAt)
        else {
          await follow(lease)
          if (link) pauseMs = lease.leftMs + Math.random() * SPREAD_MS
        }
      } catch (error) {
        log({ type: 'trouble', doing: 'find out who writes', error })
      }
      await pause(pauseMs, seen)
    }
    await dropLink()
  }
  const running = run()
  const unwatch = store.watchWriter(look)

  return {
    look,
    async close() {
      closing = true
      stop()
      look()
      await running
      await ending
      await unwatch()
    },
  }
}
