/** What a case of the suite gives: one row of the table, and the numbers behind it. */
export interface Row {
  readonly name: string
  /** Human-readable, in the order to print: `p50`, `p99`, `n`, … */
  readonly figures: Readonly<Record<string, number | string>>
  /** The promise of SPECIFICATION.md, where the row has one. */
  readonly goal?: string
  readonly reached?: boolean
}

export const quantile = (values: readonly number[], q: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

export const round = (value: number, digits = 2): number => Number(value.toFixed(digits))

/** Median, 99th percentile and count of durations in milliseconds. */
export const figuresOf = (times: readonly number[]): { p50: number; p99: number; n: number } => ({
  p50: round(quantile(times, 0.5)),
  p99: round(quantile(times, 0.99)),
  n: times.length,
})

export const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const began = performance.now()
  await work()
  return performance.now() - began
}

export const printTable = (rows: readonly Row[]): void => {
  const cells = rows.map((row) => [
    row.name,
    Object.entries(row.figures)
      .map(([name, value]) => `${name} ${value}`)
      .join('  '),
    row.goal ?? '',
    row.reached === undefined ? '' : row.reached ? 'yes' : 'NO',
  ])
  const head = ['case', 'measured', 'goal', 'reached']
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((cell) => (cell[i] ?? '').length)))
  const line = (cell: readonly string[]): string =>
    cell
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd()
  console.log(line(head))
  console.log(widths.map((width) => '-'.repeat(width)).join('  '))
  for (const cell of cells) console.log(line(cell))
}
