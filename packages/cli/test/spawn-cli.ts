import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface CliEnd {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface CliProcess {
  readonly child: ChildProcess
  readonly ended: Promise<CliEnd>
  /** Resolves when standard output holds this text. */
  printed(text: string): Promise<void>
  /** Standard output so far. */
  text(): string
}

const MAIN = join(import.meta.dirname, '../src/main.ts')

/** The real CLI as a process, with nothing of this one's environment that could steer it. */
export const spawnCli = (args: readonly string[], env: Record<string, string>): CliProcess => {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH ?? '',
      HOME: tmpdir(),
      NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const text = { stdout: '', stderr: '' }
  const waiting = new Set<() => void>()
  for (const name of ['stdout', 'stderr'] as const)
    child[name].on('data', (chunk: Buffer) => {
      text[name] += chunk.toString('latin1')
      for (const look of waiting) look()
    })
  const ended = once(child, 'close').then(([code]) => {
    for (const look of waiting) look()
    return { code: code as number | null, ...text }
  })
  return {
    child,
    ended,
    text: () => text.stdout,
    printed: (wanted) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = text.stdout.includes(wanted)
          if (!found && child.exitCode === null) return
          waiting.delete(look)
          if (found) resolve()
          else reject(new Error(`it ended without ${JSON.stringify(wanted)}: ${JSON.stringify(text)}`))
        }
        waiting.add(look)
        look()
      }),
  }
}

/** Runs it to its end, with this on standard input. */
export const runCli = (args: readonly string[], env: Record<string, string>, stdin = ''): Promise<CliEnd> => {
  const { child, ended } = spawnCli(args, env)
  child.stdin?.end(stdin)
  return ended
}
