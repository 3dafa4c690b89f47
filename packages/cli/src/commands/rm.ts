import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { eachInstance } from '../instances/each-instance.ts'
import { calledOf } from '../instances/find-instance.ts'

interface RmOptions extends ConnectionOptions {
  readonly force?: boolean
}

export default {
  name: 'rm',
  summary: 'Delete instances, with their files',
  configure(command) {
    command
      .argument('<instance...>', 'id, the beginning of one, or name')
      .option('-f, --force', 'also those that are not stopped')
    addConnectionOptions(command).action((refs: string[], options: RmOptions) =>
      eachInstance(refs, options, async (instance, signal) => {
        if (options.force !== true && instance.status !== 'stopped')
          throw new ExitError(
            EXIT.failure,
            `${calledOf(instance)} is ${instance.status}: its processes and files would be lost`,
            'Stop it before, or delete it with --force.',
          )
        await instance.delete({ signal })
      }),
    )
  },
} satisfies CliCommand
