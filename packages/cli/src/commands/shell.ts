import type { Instance } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { findInstance } from '../instances/find-instance.ts'
import { addStartOptions, type StartOptions, startSpecOf } from '../instances/start-options.ts'
import { interrupt } from '../node/interrupt.ts'

interface ShellOptions extends StartOptions, ConnectionOptions {
  readonly shell?: string
}

export default {
  name: 'shell',
  summary: 'Open a terminal in an instance, or in a new one that is gone afterwards',
  configure(command) {
    command.argument('[instance]', 'id, the beginning of one, or name (default: a new one)')
    addConnectionOptions(addStartOptions(command))
      .option('--shell <line>', 'run this instead of a shell')
      .addHelpText(
        'after',
        '\nThe options that describe an instance are for a new one; --user and --workdir are for both.\n\nExamples:\n  bramble shell box\n  bramble shell --image python --network egress',
      )
      .action(shell)
  },
} satisfies CliCommand

const shell = async (ref: string | undefined, options: ShellOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const { user, workdir, shell: cmd } = options
  await using instance =
    ref === undefined
      ? await bramble.instances.start({ ttlMs: UNATTENDED_TTL_MS, ...startSpecOf(options) }, { signal })
      : await findInstance(bramble, ref, signal)
  process.exitCode = await run(instance, { user, workdir, cmd }, signal)
}

/** For when this process cannot delete it any more. */
const UNATTENDED_TTL_MS = 24 * 3_600_000

const run = async (
  instance: Instance,
  { cmd, ...options }: { user?: string | undefined; workdir?: string | undefined; cmd?: string | undefined },
  signal: AbortSignal,
): Promise<number> => {
  if (process.stdin.isTTY && process.stdout.isTTY) {
    const { attachTerminal } = await import('../instances/attach-terminal.ts')
    return attachTerminal(instance, { ...options, cmd }, signal)
  }
  // A script on standard input.
  const [{ execWithInput }, { processOutput }] = await Promise.all([
    import('../instances/exec-live.ts'),
    import('../run/output.ts'),
  ])
  return execWithInput(instance, cmd ?? ['sh'], options, processOutput(), signal)
}
