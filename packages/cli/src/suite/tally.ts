/** What one runner of tests counted. */
export interface Tally {
  readonly passed: number
  readonly failed: readonly string[]
  readonly skipped: readonly { readonly name: string; readonly reason: string }[]
}

export const addTallies = (tallies: readonly Tally[]): Tally => ({
  passed: tallies.reduce((sum, { passed }) => sum + passed, 0),
  failed: tallies.flatMap(({ failed }) => failed),
  skipped: tallies.flatMap(({ skipped }) => skipped),
})

/** The one line that ends `bramble test`. */
export const tallyLine = ({ passed, failed, skipped }: Tally): string =>
  `tests: ${passed} passed, ${failed.length} failed, ${skipped.length} skipped`

/** What was skipped and why, the tests of one reason together. */
export const explainSkips = ({ skipped }: Tally): string[] => {
  const byReason = new Map<string, string[]>()
  for (const { name, reason } of skipped) byReason.set(reason, [...(byReason.get(reason) ?? []), name])
  return [...byReason].map(([reason, names]) =>
    names.length === 1
      ? `skipped ${names[0]}: ${reason}`
      : `skipped ${names.length} tests, ${names[0]} first: ${reason}`,
  )
}
