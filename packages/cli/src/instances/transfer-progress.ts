import { formatBytes } from '../format.ts'
import { isLive, safeLine } from '../terminal.ts'

/** How far a copy is, as a line on stderr that is drawn over; nothing where that is no terminal. */
export interface TransferProgress extends Disposable {
  add(bytes: number): void
}

const DRAW_MS = 100
const BAR_CHARS = 24

export const transferProgress = (title: string, totalBytes?: number): TransferProgress => {
  const { stderr } = process
  if (!isLive(stderr)) return { add: () => undefined, [Symbol.dispose]: () => undefined }
  const began = performance.now()
  let bytes = 0
  let drawn = false
  const draw = (): void => {
    const seconds = (performance.now() - began) / 1000
    const rate = `${formatBytes(bytes / Math.max(seconds, 0.001))}/s`
    const fraction = totalBytes === undefined || totalBytes === 0 ? undefined : Math.min(1, bytes / totalBytes)
    const bar =
      fraction === undefined
        ? ''
        : `[${'#'.repeat(Math.round(fraction * BAR_CHARS)).padEnd(BAR_CHARS)}] ${String(Math.floor(fraction * 100)).padStart(3)}%  `
    const line = `${safeLine(title)}  ${bar}${formatBytes(bytes)}  ${rate}`
    stderr.write(`\r\x1b[K${line.slice(0, (stderr.columns || 80) - 1)}`)
    drawn = true
  }
  // What is done at once shows nothing.
  const timer = setInterval(draw, DRAW_MS).unref()
  return {
    add: (more) => {
      bytes += more
    },
    [Symbol.dispose]() {
      clearInterval(timer)
      if (drawn) stderr.write('\r\x1b[K')
    },
  }
}
