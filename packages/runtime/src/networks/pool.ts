import { BrambleError } from '@bramble/protocol'
import type { ReopeningTool } from './reopening-tool.ts'
import { makeSlot, planSlot, type Slot, type SlotOptions, type SlotPlan } from './slot.ts'

export interface PoolOptions {
  readonly links: ReopeningTool
  readonly slots: SlotOptions
  readonly resolver: string
  readonly mtu: number
  readonly readySlots: number
  readonly maxSlots: number
  /** Names of links that are there already. */
  readonly taken: readonly string[]
  readonly onMade: (slot: Slot) => Promise<void>
  readonly onDiscarded: (slot: SlotPlan) => Promise<void>
}

/** Slots made ahead. Each is used once: what a sandbox left in its namespaces goes with them. */
export interface Pool {
  /** One that `onMade` has not seen, for what must be there before the rules are. */
  makeFirst(): Promise<Slot>
  /** Begins to keep slots ready, `first` among them. */
  start(first: Slot): Promise<void>
  take(): Promise<Slot>
  planOf(link: string): SlotPlan
  /** Removes the link, and with it, when nothing runs there, the namespaces. The number is free again. */
  giveBack(slot: SlotPlan): Promise<void>
  close(): Promise<void>
}

export const openPool = (options: PoolOptions): Pool => {
  const { links, slots, maxSlots } = options
  const indexOf = (link: string): number => Number(link.slice(slots.prefix.length))
  const numbers = new Set<number>(options.taken.map(indexOf))
  let ready: Slot[] = []
  let filling: Promise<void> | undefined
  let closed = false

  const takeNumber = (): number => {
    for (let index = 0; index < maxSlots; index++)
      if (!numbers.has(index)) {
        numbers.add(index)
        return index
      }
    throw new BrambleError('sandbox_failed', { detail: `more than ${maxSlots} networks` })
  }
  const makeOne = async (): Promise<Slot> => {
    const plan = planSlot(slots, takeNumber())
    try {
      const tool = await links.current()
      const slot = await makeSlot(tool, plan, options)
      // Nobody is left to hold the namespaces of those that are ready.
      void tool.closed.then(() => {
        if (!ready.includes(slot)) return
        ready = ready.filter((other) => other !== slot)
        numbers.delete(slot.index)
      })
      return slot
    } catch (error) {
      numbers.delete(plan.index)
      throw error
    }
  }
  const giveBack = async (slot: SlotPlan): Promise<void> => {
    await links.ask('remove', slot.link)
    numbers.delete(slot.index)
    fill()
  }
  const make = async (): Promise<Slot> => {
    const slot = await makeOne()
    try {
      await options.onMade(slot)
      return slot
    } catch (error) {
      await giveBack(slot).catch(() => {})
      throw error
    }
  }
  /** One after another, in the background. A failure is for the next `take` to find. */
  const fill = (): void => {
    if (closed || filling) return
    filling = (async () => {
      while (!closed && ready.length < options.readySlots && numbers.size < maxSlots) ready.push(await make())
    })()
      .catch(() => {})
      .finally(() => {
        filling = undefined
      })
  }
  const take = async (): Promise<Slot> => {
    if (closed) throw new BrambleError('shutting_down', { detail: 'the networks are closed' })
    const slot = ready.shift() ?? (await make())
    fill()
    return slot
  }
  const close = async (): Promise<void> => {
    closed = true
    await filling
    for (const slot of ready) {
      await links.ask('remove', slot.link).catch(() => {})
      await options.onDiscarded(slot).catch(() => {})
    }
    ready = []
  }
  return {
    makeFirst: makeOne,
    start: async (first) => {
      await options.onMade(first)
      ready.push(first)
      fill()
    },
    take,
    planOf: (link) => planSlot(slots, indexOf(link)),
    giveBack,
    close,
  }
}
