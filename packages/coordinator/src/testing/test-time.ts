import type { Surroundings } from '../network/writer-context.ts'

/** A clock that stands still until the test moves it, with the timers that are due on the way. */
export const testTime = (): Pick<Surroundings, 'now' | 'schedule'> & { advance(ms: number): void } => {
  let at = Date.now()
  const timers = new Set<{ readonly due: number; readonly work: () => void }>()
  return {
    now: () => at,
    schedule: (ms, work) => {
      const timer = { due: at + ms, work }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    advance: (ms) => {
      const until = at + ms
      for (;;) {
        const [next] = [...timers].filter(({ due }) => due <= until).sort((left, right) => left.due - right.due)
        if (!next) break
        at = Math.max(at, next.due)
        timers.delete(next)
        next.work()
      }
      at = until
    },
  }
}
