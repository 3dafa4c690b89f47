const CTRL_C = 3

/** Resolves after `ms`, or rejects with the signal's reason. */
export const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })

/** As many of the lines as the terminal has room for, over what was there. */
const draw = (lines: readonly string[]): void => {
  const { stdout } = process
  const shown = lines.slice(0, Math.max(1, (stdout.rows || 24) - 1))
  stdout.write(`\x1b[H${shown.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`)
}

/** The other screen of the terminal, without a cursor; the first one is as it was afterwards, whatever happens. */
const fullScreen = (onQuit: () => void): Disposable => {
  const { stdin, stdout } = process
  const restore = (): void => {
    stdout.write('\x1b[?25h\x1b[?1049l')
    if (stdin.isTTY) stdin.setRawMode(false)
  }
  const onKey = (keys: Buffer): void => {
    if (keys.includes('q') || keys.includes(CTRL_C)) onQuit()
  }
  stdout.write('\x1b[?1049h\x1b[?25l\x1b[2J')
  if (stdin.isTTY) {
    stdin.setRawMode(true)
    stdin.on('data', onKey).resume()
  }
  process.on('exit', restore)
  return {
    [Symbol.dispose]() {
      process.off('exit', restore)
      restore()
      stdin.off('data', onKey).pause()
    },
  }
}

/** Draws anew what `look` finds, every `intervalMs`, until q, Ctrl-C or the signal. */
export const watchScreen = async (
  look: (signal: AbortSignal) => Promise<readonly string[]>,
  { intervalMs, signal }: { intervalMs: number; signal: AbortSignal },
): Promise<void> => {
  const quit = new AbortController()
  using _screen = fullScreen(() => quit.abort())
  const ended = AbortSignal.any([signal, quit.signal])
  try {
    while (!ended.aborted) {
      draw(await look(ended))
      await pause(intervalMs, ended)
    }
  } catch (error) {
    if (!ended.aborted) throw error
  }
}
