import { EXIT, ExitError } from './exit.ts'
import { hasColor, paint, safeLine } from './terminal.ts'

/** What an error says of itself, read by its shape: this file is loaded before the packages that have the classes. */
interface Spoken {
  readonly name?: unknown
  readonly message?: unknown
  readonly hint?: unknown
  readonly requestId?: unknown
  readonly cause?: unknown
  readonly exitCode?: unknown
  readonly issues?: readonly { path: string; message: string }[]
}

/** Writes an error as one clear line with its hint to stderr, and returns the exit code it stands for. */
export const reportError = (thrown: unknown, stderr: NodeJS.WriteStream = process.stderr): number => {
  const error = (typeof thrown === 'object' && thrown !== null ? thrown : { message: String(thrown) }) as Spoken
  const interrupted = interruptedCode(error)
  if (interrupted !== undefined) return interrupted
  const color = hasColor(stderr)
  const message = typeof error.message === 'string' ? error.message : String(thrown)
  const request = typeof error.requestId === 'string' ? ` (request ${error.requestId})` : ''
  if (message !== '') stderr.write(`${paint('red', 'bramble:', color)} ${safeLine(message + request)}\n`)
  const issues = error.issues ?? []
  // The message has the first; a hint for those who send JSON would only repeat them.
  for (const issue of issues.slice(1, MAX_ISSUES)) stderr.write(`  ${safeLine(`${issue.path}: ${issue.message}`)}\n`)
  const hint = /: there is no route /.test(message) ? NO_ROUTE : error.hint
  if (typeof hint === 'string' && issues.length === 0) stderr.write(`  ${paint('dim', safeLine(hint), color)}\n`)
  return thrown instanceof ExitError ? thrown.exitCode : EXIT.failure
}

const MAX_ISSUES = 10

/** Commands of networks say it better themselves. */
const NO_ROUTE =
  'This is a command of a node, and what answers is a network (`bramble submit` runs commands there) or of another version.'

/** Whoever pressed Ctrl-C knows what happened: no message, and the exit code of the signal. */
const interruptedCode = (error: Spoken): number | undefined => {
  for (let link: unknown = error, depth = 0; depth < 5 && typeof link === 'object' && link !== null; depth++) {
    const { name, exitCode, cause } = link as Spoken
    if (name === 'Interrupted' && typeof exitCode === 'number') return exitCode
    link = cause
  }
  return undefined
}
