import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface TerminalSession {
  readonly child: ChildProcess
  type(text: string): void
  /** Resolves when this has been shown, after what was waited for before. */
  shows(text: string): Promise<void>
  /** Everything shown, and the exit code. */
  readonly ended: Promise<{ code: number | null; screen: string }>
}

/**
 * A program of its own: it makes a pseudo-terminal of 100 columns and 30 rows, runs the rest of its arguments on it, and
 * carries bytes both ways. `\x00` and two numbers as input resize it. It ends with the program's code, and says what state the
 * terminal is left in.
 */
const HARNESS = `
import fcntl, os, pty, select, signal, struct, sys, termios
def resize(fd, cols, rows): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
master, slave = pty.openpty()
resize(master, 100, 30)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2): os.dup2(slave, fd)
    os.close(master); os.close(slave)
    os.execvp(sys.argv[1], sys.argv[1:])
inputs = [master, 0]
status = None
while True:
    ready, _, _ = select.select(inputs, [], [], 0.05)
    if master in ready: os.write(1, os.read(master, 65536))
    if 0 in ready:
        data = os.read(0, 65536)
        if not data: inputs.remove(0)
        while data:
            if data[0] == 0:
                resize(master, data[1], data[2]); os.kill(pid, signal.SIGWINCH); data = data[3:]
            else:
                end = data.find(b'\\x00'); end = len(data) if end < 0 else end
                os.write(master, data[:end]); data = data[end:]
    if status is None:
        done, how = os.waitpid(pid, os.WNOHANG)
        if done: status = how
    elif not ready: break
flags = termios.tcgetattr(slave)[3]
os.write(1, b'<cooked>' if flags & termios.ICANON and flags & termios.ECHO else b'<raw>')
sys.exit(os.waitstatus_to_exitcode(status) & 255)
`

const MAIN = join(import.meta.dirname, '../src/main.ts')

/** The real CLI on a terminal. */
export const inTerminal = (args: readonly string[], env: Record<string, string>): TerminalSession =>
  onTerminal([process.execPath, MAIN, ...args], env)

/** Any program on a terminal. */
export const onTerminal = (argv: readonly string[], env: Record<string, string>): TerminalSession => {
  const child = spawn('python3', ['-c', HARNESS, ...argv], {
    env: {
      PATH: process.env.PATH ?? '',
      HOME: tmpdir(),
      TERM: 'xterm',
      NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let screen = ''
  let seen = 0
  const waiting = new Set<() => void>()
  const look = (): void => {
    for (const each of waiting) each()
  }
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      screen += chunk.toString()
      look()
    })
  const ended = once(child, 'close').then(([code]) => {
    look()
    return { code: code as number | null, screen }
  })
  return {
    child,
    ended,
    type: (text) => void child.stdin.write(text),
    shows: (text) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          const at = screen.indexOf(text, seen)
          if (at === -1 && child.exitCode === null) return
          waiting.delete(check)
          const why = `it ended without ${JSON.stringify(text)}: ${JSON.stringify(screen)}`
          if (at === -1) reject(new Error(why))
          seen = at + text.length
          resolve()
        }
        waiting.add(check)
        check()
      }),
  }
}
