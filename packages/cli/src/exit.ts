/** Exit codes of bramble itself; everything else is a command's own. 126 and 127 come from the command, as in a shell. */
export const EXIT = {
  ok: 0,
  /** Bramble failed, not the command: the way of `docker run` and coreutils' `env`. */
  failure: 125,
  /** Ended by Ctrl-C: 128 + SIGINT. */
  interrupted: 130,
} as const

/** Ends the process with `exitCode`; a message, where there is one, goes to stderr with its hint. */
export class ExitError extends Error {
  override readonly name = 'ExitError'
  readonly exitCode: number
  readonly hint: string | undefined

  constructor(exitCode: number, message = '', hint?: string) {
    super(message)
    this.exitCode = exitCode
    this.hint = hint
  }
}
