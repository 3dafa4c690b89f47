/**
 * Milliseconds that pass while the writer is up and listens, for leases and silence. The wall clock may be set, and a process may
 * stand still for minutes (a debugger, a suspended machine): what could not be heard meanwhile is nobody's fault. So a step of the
 * clock that is longer than any between two ticks, or backwards, counts as none.
 */
export const steadyClock = (now: () => number, maxStepMs: number): (() => number) => {
  let last = now()
  let skippedMs = 0
  return () => {
    const wall = now()
    const step = wall - last
    last = wall
    if (step < 0 || step > maxStepMs) skippedMs += step
    return wall - skippedMs
  }
}
