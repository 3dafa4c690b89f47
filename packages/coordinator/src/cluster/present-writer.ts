import { BrambleError } from '@bramble/protocol'
import type { Network } from '../network/network.ts'

/** The way to the coordinator that writes, as it is now: changes while whoever calls waits. */
export interface PresentWriter {
  readonly network: Network | undefined
  /** One that is not `other`; rejects with `not_leader` when there is none within `ms`. */
  next(
    ms: number,
    options?: { readonly other?: Network | undefined; readonly signal?: AbortSignal | undefined },
  ): Promise<Network>
  set(network: Network | undefined): void
  /** Called at once with each that comes, until what is returned is called. */
  follow(changed: (network: Network | undefined) => void): () => void
}

export const RETRY_AFTER_MS = 500

export const nobodyWrites = (): BrambleError =>
  new BrambleError('not_leader', { detail: 'no coordinator writes now', retryAfterMs: RETRY_AFTER_MS })

export const presentWriter = (): PresentWriter => {
  const followers = new Set<(network: Network | undefined) => void>()
  let network: Network | undefined
  return {
    get network() {
      return network
    },
    async next(ms, { other, signal } = {}) {
      if (network && network !== other) return network
      signal?.throwIfAborted()
      const { promise, resolve, reject } = Promise.withResolvers<Network>()
      const come = (one: Network | undefined): void => {
        if (one && one !== other) resolve(one)
      }
      const abort = (): void => reject(signal?.reason)
      const timer = setTimeout(() => reject(nobodyWrites()), ms)
      followers.add(come)
      signal?.addEventListener('abort', abort, { once: true })
      try {
        return await promise
      } finally {
        clearTimeout(timer)
        followers.delete(come)
        signal?.removeEventListener('abort', abort)
      }
    },
    set(next) {
      if (network === next) return
      network = next
      for (const changed of [...followers]) changed(next)
    },
    follow(changed) {
      followers.add(changed)
      return () => followers.delete(changed)
    },
  }
}
