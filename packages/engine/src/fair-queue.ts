/** Something that waits: in a lane (an API key) of a tenant. */
export interface Queued {
  readonly tenant: string
  readonly lane: string
  /** How often others went first because it was too large for the room there was. */
  passed: number
}

export type Verdict = 'take' | 'skip' | 'tooLarge'

/**
 * A queue that serves tenants in turn, and the lanes of a tenant in turn, each lane first come first served: who sends
 * much waits for its own, not in front of others.
 */
export interface FairQueue<T extends Queued> {
  add(item: T): void
  /**
   * The next item whose verdict is `take`. `skip` passes the lane by (its quota is used up). `tooLarge` lets others go
   * first too, but only `MAX_PASSED` times: then everyone waits until there is room for it.
   */
  take(judge: (item: T) => Verdict): T | undefined
  remove(item: T): boolean
  sizeOf(tenant: string): number
  readonly size: number
  clear(): T[]
}

const MAX_PASSED = 64

interface TenantLine<T> {
  readonly lanes: Map<string, T[]>
  size: number
}

export const createFairQueue = <T extends Queued>(): FairQueue<T> => {
  // A Map keeps the order of insertion: who was served is deleted and set again, and so is last.
  const tenants = new Map<string, TenantLine<T>>()
  let size = 0

  const forgetOne = (tenant: string, line: TenantLine<T>, lane: string, items: T[]): void => {
    size--
    line.size--
    if (items.length === 0) line.lanes.delete(lane)
    if (line.size === 0) tenants.delete(tenant)
  }

  const takeFrom = (tenant: string, line: TenantLine<T>, judge: (item: T) => Verdict): T | 'hold' | undefined => {
    for (const [lane, items] of [...line.lanes]) {
      const head = items[0]
      if (!head) continue
      const verdict = judge(head)
      if (verdict === 'take') {
        items.shift()
        line.lanes.delete(lane)
        if (items.length > 0) line.lanes.set(lane, items)
        tenants.delete(tenant)
        tenants.set(tenant, line)
        forgetOne(tenant, line, lane, items)
        return head
      }
      if (verdict === 'tooLarge' && ++head.passed > MAX_PASSED) return 'hold'
    }
    return undefined
  }

  return {
    add(item) {
      let line = tenants.get(item.tenant)
      if (!line) {
        line = { lanes: new Map(), size: 0 }
        tenants.set(item.tenant, line)
      }
      const items = line.lanes.get(item.lane)
      if (items) items.push(item)
      else line.lanes.set(item.lane, [item])
      line.size++
      size++
    },
    take(judge) {
      for (const [tenant, line] of [...tenants]) {
        const taken = takeFrom(tenant, line, judge)
        if (taken === 'hold') return undefined
        if (taken) return taken
      }
      return undefined
    },
    remove(item) {
      const line = tenants.get(item.tenant)
      const items = line?.lanes.get(item.lane)
      const at = items?.indexOf(item) ?? -1
      if (!line || !items || at < 0) return false
      items.splice(at, 1)
      forgetOne(item.tenant, line, item.lane, items)
      return true
    },
    sizeOf: (tenant) => tenants.get(tenant)?.size ?? 0,
    get size() {
      return size
    },
    clear() {
      const all = [...tenants.values()].flatMap((line) => [...line.lanes.values()].flat())
      tenants.clear()
      size = 0
      return all
    },
  }
}
