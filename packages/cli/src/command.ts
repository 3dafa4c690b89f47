import type { Command } from 'commander'

/**
 * One command of the CLI. Each file `commands/<name>.ts` has one as its default export. `main.ts` knows the names and
 * summaries by a table of its own and imports a file only when its command is asked for, so a command file may import
 * at its top whatever it needs, and should import lazily what only some of its paths need.
 */
export interface CliCommand {
  readonly name: string
  /** One line for `bramble --help`, no full stop. */
  readonly summary: string
  /**
   * Adds options, arguments, sub-commands and the action. An action that throws ends the process with the error as one
   * line and a hint on stderr, and exit code 125; `BrambleError`s bring their own hint. To end with another code, throw
   * `ExitError` (`exit.ts`) or set `process.exitCode` and return.
   */
  configure(command: Command): void
}
