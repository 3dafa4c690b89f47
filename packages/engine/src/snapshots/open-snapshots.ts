import { BrambleError } from '@bramble/protocol'
import type { Snapshots } from './snapshots.ts'

export interface OpenSnapshots extends Snapshots {
  close(): Promise<void>
}

export const openSnapshots = async (): Promise<OpenSnapshots> => {
  const refuse = async (): Promise<never> => {
    throw new BrambleError('unsupported', { detail: 'this node does not offer snapshots yet' })
  }
  return {
    take: refuse,
    get: refuse,
    list: refuse,
    change: refuse,
    remove: refuse,
    restore: refuse,
    diff: refuse,
    export: refuse,
    import: refuse,
    branch: refuse,
    branches: refuse,
    merge: refuse,
    collect: refuse,
    close: async () => undefined,
  }
}
