import { spawnSync } from 'node:child_process'
import type { Instance, Terminal, TerminalOptions } from '@bramble/sdk'

/**
 * Joins this process's terminal with one in an instance, until the command on it ends; resolves with its exit code. The
 * terminal of this process is as it was afterwards, whatever happens.
 */
export const attachTerminal = async (
  instance: Instance,
  options: Pick<TerminalOptions, 'cmd' | 'user' | 'workdir'>,
  signal: AbortSignal,
): Promise<number> => {
  const { stdin, stdout } = process
  const size = { cols: stdout.columns || 80, rows: stdout.rows || 24 }
  await using terminal = await instance.pty({ ...options, ...size, signal })
  using _raw = rawMode(stdin)
  const onResize = (): void => void terminal.resize(stdout.columns, stdout.rows).catch(() => undefined)
  stdout.on('resize', onResize)
  const input = typed(terminal)
  stdin.on('data', input)
  stdin.resume()
  try {
    // A terminal never has a reader that goes: what is slow here is slow there.
    for await (const bytes of terminal)
      if (!stdout.write(bytes)) await new Promise<void>((resolve) => stdout.once('drain', resolve))
    return (await terminal.exited).exitCode
  } finally {
    stdin.off('data', input)
    stdout.off('resize', onResize)
    stdin.pause()
  }
}

const CTRL_C = 3

/** What is typed goes there; while the connection is lost, Ctrl-C ends the attempts to get it back. */
const typed =
  (terminal: Terminal) =>
  (chunk: Buffer): void => {
    if (!terminal.connected) {
      if (chunk.includes(CTRL_C)) terminal.close()
      return
    }
    process.stdin.pause()
    terminal.write(chunk).then(
      () => process.stdin.resume(),
      () => undefined,
    )
  }

/** Keys come one by one and unread, Ctrl-C too. Disposing, or the end of the process, undoes it. */
const rawMode = (stdin: NodeJS.ReadStream): Disposable => {
  const restore = (): void => {
    if (stdin.isTTY && stdin.isRaw) stdin.setRawMode(false)
  }
  if (stdin.isTTY) {
    stdin.setRawMode(true)
    // Node's raw mode still puts a CR before each LF of the output, which programs that draw do not mean.
    spawnSync('stty', ['-opost'], { stdio: ['inherit', 'ignore', 'ignore'] })
  }
  process.on('exit', restore)
  return {
    [Symbol.dispose]() {
      restore()
      process.off('exit', restore)
    },
  }
}
