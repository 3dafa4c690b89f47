import { styleText } from 'node:util'
import { type CliConfig, readConfig } from './config.ts'

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'

/** Whether a stream is a terminal that shows colour, and whose user wants it. */
export const hasColor = (stream: { isTTY?: boolean }, config: CliConfig = readConfig()): boolean =>
  stream.isTTY === true && !config.noColor && !config.dumbTerminal

/** Whether a line may be drawn over: progress in place instead of a line an event. */
export const isLive = (stream: { isTTY?: boolean }, config: CliConfig = readConfig()): boolean =>
  stream.isTTY === true && !config.dumbTerminal

export const paint = (style: Style, text: string, color: boolean): string =>
  color ? styleText(style, text, { validateStream: false }) : text

/**
 * Text of others (commands, labels, messages of a server) as one line that cannot move the cursor, set a title or write
 * to the clipboard: control characters (C0, DEL, C1) and the marks that turn the direction of text are shown as `·`.
 */
export const safeLine = (text: string): string =>
  text
    .replace(/\s+/g, ' ')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it is there to remove.
    .replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, '·')

export interface Column<T> {
  readonly title: string
  text(row: T): string
  /** Numbers stand to the right. */
  readonly right?: boolean
  /** Left out where it is empty; above 0 also where there is no room for all, the highest first. */
  readonly spare?: number
  /** By content: `failed` in red. */
  style?(row: T): Style | undefined
}

export interface TableOptions {
  readonly color: boolean
  /** Of the terminal: spare columns are left out, and the last one is cut to it. */
  readonly width?: number | undefined
}

/** The last column is cut, but not to less than this while another one can be left out. */
const MIN_LAST_CHARS = 16
const GAP_CHARS = 2

/** The columns that are shown. */
const columnsThatFit = <T>(all: readonly Column<T>[], rows: readonly T[], width: number | undefined): Column<T>[] => {
  const shown = all.filter(({ spare, text }) => spare === undefined || rows.some((row) => text(row) !== ''))
  const widthOf = ({ title, text }: Column<T>): number =>
    Math.max(title.length, ...rows.map((row) => safeLine(text(row)).length))
  const widths = new Map(shown.map((column) => [column, widthOf(column)]))
  const needed = (): number =>
    shown.reduce((sum, column, at) => {
      const wide = widths.get(column) ?? 0
      return sum + (at === shown.length - 1 ? Math.min(wide, MIN_LAST_CHARS) : wide + GAP_CHARS)
    }, 0)
  while (width !== undefined && needed() > width) {
    const [first] = shown.toSorted((left, right) => (right.spare ?? 0) - (left.spare ?? 0))
    if (first === undefined || (first.spare ?? 0) === 0) break
    shown.splice(shown.indexOf(first), 1)
  }
  return shown
}

/** Rows as aligned text. Cells are made safe for a terminal. */
export const formatTable = <T>(all: readonly Column<T>[], rows: readonly T[], options: TableOptions): string => {
  const columns = columnsThatFit(all, rows, options.width)
  const cells = rows.map((row) => columns.map((column) => safeLine(column.text(row))))
  const widths = columns.map((column, at) =>
    Math.max(column.title.length, ...cells.map((line) => line[at]?.length ?? 0)),
  )
  const line = (texts: readonly string[], style: (at: number) => Style | undefined): string => {
    let left = options.width ?? Number.POSITIVE_INFINITY
    const shown = texts.map((text, at) => {
      const width = Math.max(1, at === texts.length - 1 ? Math.min(left, widths[at] ?? 0) : (widths[at] ?? 0))
      const cut = text.length > width ? `${text.slice(0, width - 1)}…` : text
      const padded = columns[at]?.right ? cut.padStart(width) : cut.padEnd(width)
      left -= width + GAP_CHARS
      const chosen = style(at)
      return chosen === undefined ? padded : paint(chosen, padded, options.color)
    })
    return shown.join('  ').trimEnd()
  }
  const head = line(
    columns.map((column) => column.title),
    () => 'bold',
  )
  const body = cells.map((texts, at) =>
    line(texts, (column) => {
      const row = rows[at]
      return row === undefined ? undefined : columns[column]?.style?.(row)
    }),
  )
  return [head, ...body].join('\n')
}

/** Prints a list: a table on a terminal, JSON where it is asked for or read by a program. */
export const printList = <T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  options: { json: boolean; empty: string },
): void => {
  const { stdout } = process
  if (options.json || !stdout.isTTY) {
    console.log(JSON.stringify(rows, null, 2))
    return
  }
  if (rows.length === 0) {
    console.log(options.empty)
    return
  }
  console.log(formatTable(columns, rows, { color: hasColor(stdout), width: stdout.columns }))
}
