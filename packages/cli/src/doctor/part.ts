/** What was found of one part of the host. */
export interface PartReport {
  readonly group: string
  readonly name: string
  /**
   * `works`: tried, and it did. `limited`: it works, with less than it could. `missing` and `fails`: with what to do in
   * `hint`.
   */
  readonly state: 'works' | 'limited' | 'missing' | 'fails'
  readonly version?: string
  /** What was tried or found, in a few words. */
  readonly detail: string
  readonly hint?: string
}

/** One part to try. `examine` may throw: that is a part that fails. */
export interface Part {
  readonly group: string
  readonly name: string
  examine(signal: AbortSignal): Promise<Omit<PartReport, 'group' | 'name'>>
}

const timeoutMs = 60_000

/** Tries every part, all at once, each for a bounded time. In the order of `parts`. */
export const examineAll = (parts: readonly Part[], signal: AbortSignal): Promise<PartReport[]> =>
  Promise.all(
    parts.map(async ({ group, name, examine }): Promise<PartReport> => {
      const within = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
      try {
        return { group, name, ...(await examine(within)) }
      } catch (error) {
        signal.throwIfAborted()
        const detail = within.aborted ? `no answer in ${timeoutMs} ms` : firstLine(error)
        return { group, name, state: 'fails', detail }
      }
    }),
  )

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? ''
