import { InvalidArgumentError } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions } from '../connection.ts'
import { eachInstance } from '../instances/each-instance.ts'
import { parseDuration } from '../parse-value.ts'

interface ExtendOptions extends ConnectionOptions {
  readonly ttl: number | 'never'
}

const parseTtl = (text: string): number | 'never' => {
  if (text === 'never') return text
  try {
    return parseDuration(text)
  } catch {
    throw new InvalidArgumentError('Not a time: 30m, 2h, 7d, or never.')
  }
}

export default {
  name: 'extend',
  summary: 'Move the time when instances expire',
  configure(command) {
    command
      .argument('<instance...>', 'id, the beginning of one, or name')
      .requiredOption('--ttl <time>', 'from now: 30m, 2h, 7d, or never', parseTtl)
    addConnectionOptions(command).action((refs: string[], options: ExtendOptions) =>
      eachInstance(refs, options, (instance, signal) =>
        instance.extend(options.ttl === 'never' ? null : options.ttl, { signal }),
      ),
    )
  },
} satisfies CliCommand
