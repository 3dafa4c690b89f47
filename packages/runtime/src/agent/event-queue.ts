import type { ProcessEvent } from './agent.ts'

/** More pieces of output than this are joined, so that a window of one-byte frames costs little more than its bytes. */
const PIECES_MAX = 1024

type Waiter = { resolve: (result: IteratorResult<ProcessEvent>) => void; reject: (error: Error) => void }

/** Events between the stream, which pushes, and one consumer, who pulls. Bounded by the flow control of its owner. */
export interface EventQueue {
  push(event: ProcessEvent): void
  /** No more events: what is queued is still handed out, then the iteration ends, or throws `error`. */
  end(error?: Error): void
  next(): Promise<IteratorResult<ProcessEvent>>
  /** Throws away what is queued and ends the iteration. */
  clear(): void
}

const joined = (events: ProcessEvent[]): ProcessEvent[] => {
  const others: ProcessEvent[] = []
  const pieces: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] }
  for (const event of events) {
    if (event.type === 'stdout' || event.type === 'stderr') pieces[event.type].push(event.data)
    else others.push(event)
  }
  for (const type of ['stdout', 'stderr'] as const) {
    if (pieces[type].length > 0) others.push({ type, data: Buffer.concat(pieces[type]) })
  }
  return others
}

export const createEventQueue = (onTaken: (event: ProcessEvent) => void): EventQueue => {
  let events: ProcessEvent[] = []
  let head = 0
  let waiter: Waiter | undefined
  let ended = false
  let failure: Error | undefined

  const take = (): ProcessEvent | undefined => {
    const event = events[head]
    if (event === undefined) return undefined
    head++
    if (head === events.length) {
      events = []
      head = 0
    }
    return event
  }

  return {
    push: (event) => {
      if (ended) return
      if (waiter !== undefined) {
        const { resolve } = waiter
        waiter = undefined
        onTaken(event)
        resolve({ done: false, value: event })
        return
      }
      events.push(event)
      if (events.length - head <= PIECES_MAX) return
      events = joined(events.slice(head))
      head = 0
    },
    end: (error) => {
      if (ended) return
      ended = true
      failure = error
      if (waiter === undefined) return
      if (error === undefined) waiter.resolve({ done: true, value: undefined })
      else waiter.reject(error)
      waiter = undefined
    },
    next: () => {
      const event = take()
      if (event !== undefined) {
        onTaken(event)
        return Promise.resolve({ done: false, value: event })
      }
      if (ended) return failure ? Promise.reject(failure) : Promise.resolve({ done: true, value: undefined })
      if (waiter !== undefined) return Promise.reject(new TypeError('one `next` at a time'))
      return new Promise((resolve, reject) => {
        waiter = { resolve, reject }
      })
    },
    clear: () => {
      ended = true
      failure = undefined
      events = []
      head = 0
      waiter?.resolve({ done: true, value: undefined })
      waiter = undefined
    },
  }
}
