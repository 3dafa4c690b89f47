import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Output that goes by between two collections. */
const COLLECT_EVERY_BYTES = 8 * 1024 * 1024

/**
 * Counts output that went by, and collects the young generation now and then (about a millisecond each). Every read of a
 * socket is a buffer of 64 KiB outside the heap, which V8 does not count toward its young generation; streaming
 * makes so little other garbage that V8 would wait until more than 100 MB of them were dead.
 */
export const youngCollector = (): ((bytes: number) => void) => {
  const collect = exposedCollector()
  let bytesSince = 0
  return (bytes) => {
    bytesSince += bytes
    if (bytesSince < COLLECT_EVERY_BYTES) return
    bytesSince = 0
    collect?.({ type: 'minor' })
  }
}

type Collector = (options: { type: 'minor' }) => void

/** V8 gives `gc` to every context made while the flag is on; the flag changes nothing else. */
const exposedCollector = (): Collector | undefined => {
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('globalThis.gc')
  setFlagsFromString('--no-expose-gc')
  return typeof collect === 'function' ? (collect as Collector) : undefined
}
