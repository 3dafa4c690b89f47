/**
 * Work that is asked for by several at once and done once. It goes on while anyone waits for it, and its signal is aborted when
 * nobody does.
 */
export interface Flights<T> {
  /** Waits for the flight of that key. Undefined: there is none. Rejects as the flight does, or with the signal's reason. */
  join(key: string, signal?: AbortSignal): Promise<T> | undefined
  /** Begins one, and waits for it. There must be none. */
  begin(key: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T>
  has(key: string): boolean
  /** Nobody joins it any more; those who wait get what it gives. */
  forget(key: string): void
  keys(): string[]
}

interface Flight<T> {
  readonly controller: AbortController
  readonly promise: Promise<T>
  waiting: number
}

export const createFlights = <T>(): Flights<T> => {
  const flights = new Map<string, Flight<T>>()
  const forget = (key: string, flight: Flight<T>): void => {
    if (flights.get(key) === flight) flights.delete(key)
  }

  const wait = async (key: string, flight: Flight<T>, signal: AbortSignal | undefined): Promise<T> => {
    flight.waiting++
    const { promise: aborted, reject } = Promise.withResolvers<never>()
    const abort = (): void => reject(signal?.reason)
    signal?.addEventListener('abort', abort, { once: true })
    if (signal?.aborted) abort()
    try {
      return await (signal ? Promise.race([flight.promise, aborted]) : flight.promise)
    } finally {
      signal?.removeEventListener('abort', abort)
      if (--flight.waiting === 0) {
        forget(key, flight)
        flight.controller.abort()
      }
    }
  }

  return {
    join(key, signal) {
      const flight = flights.get(key)
      return flight && wait(key, flight, signal)
    },
    begin(key, work, signal) {
      const controller = new AbortController()
      const promise = work(controller.signal)
      const flight: Flight<T> = { controller, promise, waiting: 0 }
      flights.set(key, flight)
      // Whoever waits is told; nobody may be left by then.
      promise.catch(() => {})
      void promise.finally(() => forget(key, flight)).catch(() => {})
      return wait(key, flight, signal)
    },
    has: (key) => flights.has(key),
    forget(key) {
      flights.delete(key)
    },
    keys: () => [...flights.keys()],
  }
}
