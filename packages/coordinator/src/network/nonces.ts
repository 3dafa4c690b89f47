import type { NodeId } from '@bramble/protocol'
import type { NetworkConfig } from './config.ts'

/**
 * Nonces of signed requests, for as long as their timestamps are good. Where more come than fit, requests are refused: an
 * older one is never forgotten for a newer one.
 */
export const openNonces = ({ nonceMs, maxNonces }: NetworkConfig, now: () => number) => {
  // Two generations: the older one is dropped whole when it is over.
  let young = new Set<string>()
  let old = new Set<string>()
  let since = now()
  return {
    take: (node: NodeId, nonce: string): boolean => {
      const at = now()
      if (at - since >= nonceMs) {
        old = at - since >= 2 * nonceMs ? new Set() : young
        young = new Set()
        since = at
      }
      const key = `${node} ${nonce}`
      if (young.has(key) || old.has(key) || young.size >= maxNonces) return false
      young.add(key)
      return true
    },
  }
}
