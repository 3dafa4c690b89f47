/**
 * Loaded before a program (`node --import`), so that its wall clock is wrong by `CHAOS_SKEW_MS`: `Date` only, as a host whose
 * clock was set wrong. Timers and `performance.now()` run on as they are.
 */
const skewMs = Number(process.env.CHAOS_SKEW_MS ?? 0)
const RealDate = Date

class SkewedDate extends RealDate {
  constructor(...given: unknown[]) {
    if (given.length === 0) super(RealDate.now() + skewMs)
    else super(...(given as [number]))
  }
  static override now(): number {
    return RealDate.now() + skewMs
  }
}

if (skewMs !== 0) globalThis.Date = SkewedDate as DateConstructor

export {}
