import type { Instance } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { interrupt } from '../node/interrupt.ts'
import { reportError } from '../report-error.ts'
import { calledOf, findInstance } from './find-instance.ts'

/** Does something to each of several instances, and prints each as it was named once it is done. One that fails stops no other. */
export const eachInstance = async (
  refs: readonly string[],
  options: ConnectionOptions,
  change: (instance: Instance, signal: AbortSignal) => Promise<unknown>,
): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const done = await Promise.allSettled(
    refs.map(async (ref) => {
      await change(await findInstance(bramble, ref, signal), signal)
      console.log(ref)
    }),
  )
  for (const outcome of done) if (outcome.status === 'rejected') process.exitCode = reportError(outcome.reason)
}

/**
 * A command that is one change of a life: `bramble pause box`. An instance that is `goal` already is no error: whoever asks
 * twice has what they want.
 */
export const lifecycleCommand = (
  name: string,
  summary: string,
  goal: Instance['status'],
  change: (instance: Instance, signal: AbortSignal) => Promise<unknown>,
): CliCommand => ({
  name,
  summary,
  configure(command: Command) {
    command.argument('<instance...>', 'id, the beginning of one, or name')
    addConnectionOptions(command).action((refs: string[], options: ConnectionOptions) =>
      eachInstance(refs, options, async (instance, signal) => {
        if (instance.status !== goal) await change(instance, signal)
        else process.stderr.write(`${calledOf(instance)} is ${goal} already\n`)
      }),
    )
  },
})
