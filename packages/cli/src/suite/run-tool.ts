import { spawn } from 'node:child_process'

/** Runs a program with this process's own output and no input; gives its exit code, 1 when a signal ended it. */
export const runVisibly = (
  argv: readonly string[],
  options: { cwd: string; env?: Readonly<Record<string, string>>; signal: AbortSignal },
): Promise<number> => {
  const [file = '', ...args] = argv
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'inherit', 'inherit'],
    signal: options.signal,
  })
  child.once('error', reject)
  child.once('exit', (code) => resolve(code ?? 1))
  return promise
}
