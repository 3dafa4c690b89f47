/** Durations from 1 ms to more than a day, in classes that are 10% wide: 200 counters, whatever comes in. */
const GROWTH = Math.log(1.1)
const CLASSES = 200
/** With so many samples all counts are halved, so that what was long ago weighs less. */
const FULL = 1024

/** Quantiles of durations, within 5%, of what came lately. */
export class DurationSketch {
  readonly #counts = new Uint16Array(CLASSES)
  #total = 0

  get total(): number {
    return this.#total
  }

  add(ms: number): void {
    const index = Math.min(CLASSES - 1, Math.floor(Math.log(Math.max(1, ms)) / GROWTH))
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
    this.#total++
    if (this.#total < FULL) return
    this.#total = 0
    for (let at = 0; at < CLASSES; at++) {
      const left = (this.#counts[at] ?? 0) >> 1
      this.#counts[at] = left
      this.#total += left
    }
  }

  /** Milliseconds that a share `q` of the samples stayed below; 0 without samples. */
  quantile(q: number): number {
    let left = q * this.#total
    for (let at = 0; at < CLASSES; at++) {
      left -= this.#counts[at] ?? 0
      if (left <= 0 && this.#total > 0) return Math.exp((at + 0.5) * GROWTH)
    }
    return 0
  }
}
