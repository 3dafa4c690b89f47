import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { findInstance } from '../instances/find-instance.ts'
import { interrupt } from '../node/interrupt.ts'
import { parseDuration, parsePort } from '../parse-value.ts'

interface ExposeOptions extends ConnectionOptions {
  readonly public?: boolean
  readonly signed?: number
  readonly remove?: boolean
  readonly json?: boolean
}

export default {
  name: 'expose',
  summary: 'Give a port of an instance a URL',
  configure(command) {
    command
      .argument('<instance>', 'id, the beginning of one, or name')
      .argument('<port>', 'what listens there is served over HTTP and WebSocket', parsePort)
      .option('--public', 'for everybody (default: with an API key)')
      .option('--signed <time>', 'a URL that needs no key for so long: 1h, 7d', parseDuration)
      .option('--remove', 'take the URL away')
      .option('--json', 'print all that is known of it as JSON')
    addConnectionOptions(command).addHelpText('after', '\nThe URL, alone, goes to standard output.').action(expose)
  },
} satisfies CliCommand

const expose = async (ref: string, port: number, options: ExposeOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const instance = await findInstance(await connect(options), ref, signal)
  if (options.remove === true) {
    await instance.unexpose(port, { signal })
    console.log(port)
    return
  }
  const visibility = options.public === true ? 'public' : 'private'
  const exposed = await instance.expose(port, { visibility, signedForMs: options.signed, signal })
  if (options.json === true) console.log(JSON.stringify(exposed, null, 2))
  else {
    if (visibility === 'private' && options.signed === undefined)
      process.stderr.write('It answers to an API key; --signed gives a URL that needs none for a while.\n')
    if (exposed.byHost !== undefined) process.stderr.write(`in a browser: ${exposed.byHost}\n`)
    console.log(exposed.url)
  }
}
