import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { Readable } from 'node:stream'

/** Where Debian and others keep administrators' commands; a login shell of an ordinary user does not search there. */
const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin']

/** The path of an executable, searched in `PATH` and then in the administrators' folders. */
export const findCommand = (name: string, path = process.env.PATH ?? ''): string | undefined =>
  [...path.split(delimiter), ...SBIN]
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK)
        return true
      } catch {
        return false
      }
    })

export interface CommandOptions {
  readonly signal?: AbortSignal | undefined
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** Every line of both streams, as it comes. */
  readonly onLine?: (line: string) => void
  /** Every line of file descriptor 3, which is a pipe when this is given. */
  readonly onStatusLine?: (line: string) => void
}

export interface CommandResult {
  /** The exit code; -1 when a signal ended it, 127 when it could not be started. */
  readonly code: number
  /** The last `maxKeptLines` lines of both streams together. */
  readonly lines: string[]
}

const maxKeptLines = 2000
const maxLineChars = 16_384

const eachLine = (stream: Readable, take: (line: string) => void): void => {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (text: string) => {
    const lines = (rest + text).split(/\r?\n/)
    rest = (lines.pop() ?? '').slice(-maxLineChars)
    for (const line of lines) take(line)
  })
  stream.on('end', () => {
    if (rest !== '') take(rest)
  })
}

/**
 * Runs a command of the host to its end, without standard input. A failing command is a result, not an error; an abort
 * ends the command with SIGTERM and rejects with the signal's reason.
 */
export const runCommand = (argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> => {
  const [file = '', ...args] = argv
  const { promise, resolve, reject } = Promise.withResolvers<CommandResult>()
  const lines: string[] = []
  const keep = (line: string): void => {
    lines.push(line)
    if (lines.length > maxKeptLines) lines.shift()
    options.onLine?.(line)
  }
  const child = spawn(file, args, {
    stdio: ['ignore', 'pipe', 'pipe', options.onStatusLine ? 'pipe' : 'ignore'],
    env: { ...process.env, ...options.env },
    ...(options.cwd !== undefined && { cwd: options.cwd }),
    ...(options.signal && { signal: options.signal }),
  })
  eachLine(child.stdout as Readable, keep)
  eachLine(child.stderr as Readable, keep)
  if (options.onStatusLine) eachLine(child.stdio[3] as Readable, options.onStatusLine)
  child.once('error', (error) => {
    if (options.signal?.aborted) reject(options.signal.reason)
    else resolve({ code: 127, lines: [...lines, error.message] })
  })
  child.once('close', (code) => resolve({ code: code ?? -1, lines }))
  return promise
}
