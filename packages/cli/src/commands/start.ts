import type { Bramble, Instance } from '@bramble/sdk'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatMs } from '../format.ts'
import { calledOf } from '../instances/find-instance.ts'
import { addLifeOptions, addStartOptions, type StartOptions, startSpecOf } from '../instances/start-options.ts'
import { interrupt } from '../node/interrupt.ts'
import { safeLine } from '../terminal.ts'

interface Options extends StartOptions, ConnectionOptions {
  readonly json?: boolean
}

export default {
  name: 'start',
  summary: 'Start an instance: a sandbox that stays; or start a stopped one again',
  configure(command) {
    command.argument('[what]', 'an image; or the id or name of an instance that is to run again')
    addConnectionOptions(addStartOptions(addLifeOptions(command)))
      .option('--json', 'print the instance as JSON')
      .addHelpText(
        'after',
        '\nIts id, alone, goes to standard output.\n\nExamples:\n  bramble start python --name lab --idle-ttl 30m\n  bramble exec lab -- python3 -c "print(6*7)"\n  bramble stop lab; bramble start lab',
      )
      .action(start)
  },
} satisfies CliCommand

const start = async (what: string | undefined, options: Options): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const bramble = await connect(options)
  const began = performance.now()
  const known = await findNamed(bramble, what, options, signal)
  const ran = known?.status === 'running'
  const instance = known === undefined ? await create(bramble, what, options, signal) : await again(known, signal)
  instance.keep()
  if (options.json === true) {
    console.log(JSON.stringify(instance.info, null, 2))
    return
  }
  const took = formatMs(performance.now() - began)
  const how = ran ? 'as it did' : `started in ${took}`
  process.stderr.write(`${calledOf(instance)} runs ${safeLine(instance.info.image)}, ${how}\n`)
  console.log(instance.id)
}

const create = (
  bramble: Bramble,
  what: string | undefined,
  options: Options,
  signal: AbortSignal,
): Promise<Instance> => {
  if (what !== undefined && options.image !== undefined)
    throw new ExitError(
      EXIT.failure,
      `there is no instance ${JSON.stringify(what)} to start again`,
      'Leave out one of the two images.',
    )
  const image = options.image ?? what
  return bramble.instances.start(startSpecOf({ ...options, ...(image !== undefined && { image }) }), { signal })
}

/** What is named may be an instance: nobody who has one of that name means an image. */
const findNamed = async (
  bramble: Bramble,
  what: string | undefined,
  options: Options,
  signal: AbortSignal,
): Promise<Instance | undefined> => {
  if (what === undefined || options.name !== undefined || !/^[a-z0-9_-]{1,40}$/.test(what)) return undefined
  try {
    return await bramble.instances.get(what, { signal })
  } catch (error) {
    const { code } = error as { code?: unknown }
    // An image's name may be none that an instance could have.
    if (code === 'not_found' || code === 'invalid_request') return undefined
    throw error
  }
}

/** Makes it run, whatever it does now. */
const again = (instance: Instance, signal: AbortSignal): Promise<Instance> => {
  if (instance.status === 'running') return Promise.resolve(instance)
  return instance.status === 'paused' ? instance.resume({ signal }) : instance.start({ signal })
}
