import { formatMs } from '../format.ts'
import { isLive, safeLine } from '../terminal.ts'

const DRAW_MS = 100

/** Says on stderr that something is under way, and for how long; nothing where that is no terminal. */
export const waitingLine = (title: string): Disposable => {
  const { stderr } = process
  if (!isLive(stderr)) return { [Symbol.dispose]: () => undefined }
  const began = performance.now()
  let drawn = false
  const timer = setInterval(() => {
    const line = `${safeLine(title)}  ${formatMs(performance.now() - began)}`
    stderr.write(`\r\x1b[K${line.slice(0, (stderr.columns || 80) - 1)}`)
    drawn = true
  }, DRAW_MS).unref()
  return {
    [Symbol.dispose]() {
      clearInterval(timer)
      if (drawn) stderr.write('\r\x1b[K')
    },
  }
}
