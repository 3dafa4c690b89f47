import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions } from '../connection.ts'
import { eachInstance } from '../instances/each-instance.ts'
import { calledOf } from '../instances/find-instance.ts'

interface PauseOptions extends ConnectionOptions {
  readonly snapshot?: boolean
}

export default {
  name: 'pause',
  summary: 'Freeze instances: they use no processor until resumed',
  configure(command) {
    command
      .argument('<instance...>', 'id, the beginning of one, or name')
      .option('--snapshot', 'save its state, too, and let go of its memory: it then outlives the host')
    addConnectionOptions(command).action((refs: string[], { snapshot, ...options }: PauseOptions) =>
      eachInstance(refs, options, async (instance, signal) => {
        const isThere = instance.status === 'paused' && (snapshot !== true || instance.info.snapshotId !== undefined)
        if (isThere) process.stderr.write(`${calledOf(instance)} is paused already\n`)
        else await instance.pause({ signal, ...(snapshot === true && { snapshot }) })
      }),
    )
  },
} satisfies CliCommand
