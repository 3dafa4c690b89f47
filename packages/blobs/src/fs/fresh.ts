import type { BigIntStats } from 'node:fs'
import type { BlobHash } from '@bramble/protocol'

const freshMax = 4096

/**
 * What this process wrote itself and nobody changed since: those need not be verified when they are read. A file that was
 * written to, replaced or touched by anybody else has another change time (stat(2)), which cannot be set.
 */
export interface Fresh {
  add(hash: BlobHash, stats: BigIntStats): void
  has(hash: BlobHash, stats: BigIntStats): boolean
}

const identityOf = ({ ino, size, ctimeNs }: BigIntStats): string => `${ino} ${size} ${ctimeNs}`

export const freshBlobs = (): Fresh => {
  const identities = new Map<BlobHash, string>()
  return {
    add: (hash, stats) => {
      identities.delete(hash)
      identities.set(hash, identityOf(stats))
      const [oldest] = identities.keys()
      if (identities.size > freshMax && oldest !== undefined) identities.delete(oldest)
    },
    has: (hash, stats) => identities.get(hash) === identityOf(stats),
  }
}
