import type { NodeId } from '@bramble/protocol'
import type { NetworkConfig } from './config.ts'

/** Nonces of one span of time, by node. */
interface Generation {
  readonly byNode: Map<NodeId, Set<string>>
  size: number
}

const generation = (): Generation => ({ byNode: new Map(), size: 0 })

/**
 * Nonces of signed requests, for as long as their timestamps are good. Where more come than fit, requests are refused, of those
 * nodes that hold more than their share: none is locked out by others, and an older nonce is never forgotten for a newer one.
 */
export const openNonces = ({ nonceMs, maxNonces }: NetworkConfig, now: () => number) => {
  // Two generations: the older one is dropped whole when it is over.
  let young = generation()
  let old = generation()
  let since = now()
  return {
    take: (node: NodeId, nonce: string): boolean => {
      const at = now()
      if (at - since >= nonceMs) {
        old = at - since >= 2 * nonceMs ? generation() : young
        young = generation()
        since = at
      }
      const own = young.byNode.get(node)
      if (own?.has(nonce) || old.byNode.get(node)?.has(nonce)) return false
      if (young.size >= maxNonces && own && own.size >= maxNonces / (young.byNode.size + 1)) return false
      young.size++
      if (own) own.add(nonce)
      else young.byNode.set(node, new Set([nonce]))
      return true
    },
  }
}
