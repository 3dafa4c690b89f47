import type { Document } from '../store/store.ts'

/**
 * Numbers of placements, of users and instances alike: each is larger than all before it, also after a restart. Whoever holds
 * something at a lower number than another holds what is stale.
 */
export interface Epochs {
  next(): number
  /** Nothing that comes later may be at or below it. */
  seen(epoch: number): void
  /** Written when what had the largest number is forgotten: it must not be given again. */
  document(): Document
  load(document: Document): void
}

const KIND = 'routing'
const ID = 'epoch'

export const openEpochs = (): Epochs => {
  let last = 0
  const seen = (epoch: number): void => {
    last = Math.max(last, epoch)
  }
  return {
    next: () => ++last,
    seen,
    document: () => ({ kind: KIND, id: ID, value: last }),
    load: ({ kind, id, value }) => {
      if (kind === KIND && id === ID && typeof value === 'number') seen(value)
    },
  }
}
