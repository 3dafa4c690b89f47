import type { Bramble } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import type { Place } from '../instances/copy.ts'
import { findInstance } from '../instances/find-instance.ts'
import { interrupt } from '../node/interrupt.ts'

export default {
  name: 'cp',
  summary: 'Copy files and trees into, out of, and between instances',
  configure(command) {
    command
      .argument('<from>', 'a local path, or <instance>:<path>, or - for standard input')
      .argument('<to>', 'a local path, or <instance>:<path>, or - for standard output')
    addConnectionOptions(command)
      .addHelpText(
        'after',
        '\nInto <to> where that is a directory, else under that name. Of a directory, - is a tar archive.\n\nExamples:\n  bramble cp src box:/app\n  bramble cp box:/app/report.pdf .\n  bramble cp box:/var/log - | tar t\n  echo hello | bramble cp - box:/tmp/hello',
      )
      .action(cp)
  },
} satisfies CliCommand

const cp = async (from: string, to: string, options: ConnectionOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const [{ copy }, bramble] = await Promise.all([import('../instances/copy.ts'), connect(options)])
  const target = await placeOf(bramble, to, signal)
  await copy(await placeOf(bramble, from, signal), target, signal)
}

/** A path with a `/` before its first `:` is local, as for scp(1). */
const placeOf = async (bramble: Bramble, text: string, signal: AbortSignal): Promise<Place> => {
  if (text === '-') return { kind: 'stdio' }
  const [, ref, path] = /^([^/:]+):(.*)$/s.exec(text) ?? []
  if (ref === undefined || path === undefined) return { kind: 'local', path: text }
  if (path === '')
    throw new ExitError(EXIT.failure, `${text}: there is no path after the colon`, `${text}/ is its root.`)
  return { kind: 'instance', instance: await findInstance(bramble, ref, signal), path }
}
