import { fstatSync } from 'node:fs'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { findInstance } from '../instances/find-instance.ts'
import { interrupt } from '../node/interrupt.ts'
import { collectPairs, parseDuration } from '../parse-value.ts'
import { commandOf } from '../run/command-of.ts'

interface ExecOptions extends ConnectionOptions {
  readonly interactive?: boolean
  readonly input: boolean
  readonly tty?: boolean
  readonly env?: Record<string, string>
  readonly workdir?: string
  readonly user?: string
  readonly timeout?: number
}

export default {
  name: 'exec',
  summary: 'Run a command in an instance',
  configure(command) {
    command
      .argument('<instance>', 'id, the beginning of one, or name')
      .argument('<command...>', 'an argv; or one quoted line, which goes to `sh -c`')
      .option('-i, --interactive', 'give it standard input, also from a terminal (what is piped is given anyway)')
      .option('--no-input', 'give it no standard input')
      .option('-t, --tty', 'on a terminal of its own')
      .option('-e, --env <name=value>', 'an environment variable; may be given many times', collectPairs)
      .option('-w, --workdir <path>', 'the directory that it runs in')
      .option('-u, --user <user>', 'user, uid, user:group or uid:gid')
      .option('--timeout <time>', 'how long it may run: 30s, 5m, 2h (default: a day)', parseDuration)
      .passThroughOptions()
    addConnectionOptions(command)
      .addHelpText(
        'after',
        "\nThe exit code is the command's. 125: bramble failed. Ctrl-C ends the command.\n\nExamples:\n  bramble exec box -- npm test\n  bramble exec box 'ls | wc -l'\n  tar c src | bramble exec box -- tar x -C /app\n  bramble exec -it box -- vim /etc/hosts",
      )
      .action(exec)
  },
} satisfies CliCommand

const exec = async (ref: string, words: string[], options: ExecOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const { env, workdir, user, timeout: timeoutMs } = options
  const instance = await findInstance(await connect(options), ref, signal)
  const command = commandOf(words)
  if (options.tty === true) {
    if (!process.stdin.isTTY || !process.stdout.isTTY)
      throw new ExitError(EXIT.failure, '--tty needs a terminal on standard input and output', 'Leave out -t.')
    const [{ attachTerminal }, { formatCommand }] = await Promise.all([
      import('../instances/attach-terminal.ts'),
      import('../format.ts'),
    ])
    const cmd = `${envPrefix(env)}${formatCommand(command)}`
    process.exitCode = await attachTerminal(instance, { cmd, workdir, user }, signal)
    return
  }
  const [{ execPlain, execWithInput }, { processOutput }] = await Promise.all([
    import('../instances/exec-live.ts'),
    import('../run/output.ts'),
  ])
  const hasInput = options.input && (options.interactive === true || isPiped())
  const run = hasInput ? execWithInput : execPlain
  process.exitCode = await run(instance, command, { env, workdir, user, timeoutMs }, processOutput(), signal)
}

/** Whether somebody gives input: a pipe, a file or a socket; not a terminal, and not `/dev/null`. */
const isPiped = (): boolean => {
  if (process.stdin.isTTY) return false
  try {
    return !fstatSync(0).isCharacterDevice()
  } catch {
    return false
  }
}

/** A terminal's command is a line: what it adds to the environment stands before it. */
const envPrefix = (env: Record<string, string> = {}): string =>
  Object.entries(env)
    .map(([name, value]) => `export '${`${name}=${value}`.replaceAll("'", "'\\''")}'; `)
    .join('')
