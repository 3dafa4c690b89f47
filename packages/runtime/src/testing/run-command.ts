import type { ExecRequest, ProcessEvent, ProcessExit } from '../agent/agent.ts'
import type { Sandbox } from '../runtime.ts'

export interface CommandResult {
  readonly stdout: Buffer
  readonly stderr: Buffer
  readonly exit: ProcessExit
}

export const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

const maxKeptBytes = 64 * 1024 * 1024

/** Runs a command to its end and keeps its output. A string is a script for `sh -c`. */
export const runCommand = async (
  { agent }: Pick<Sandbox, 'agent'>,
  command: string | readonly string[],
  options: Partial<ExecRequest> & { input?: Uint8Array | string } = {},
): Promise<CommandResult> => {
  const { input, ...request } = options
  const running = agent.exec({
    argv: typeof command === 'string' ? ['sh', '-c', command] : command,
    env: { PATH },
    ...(input !== undefined && { stdin: 'pipe' as const }),
    ...request,
  })
  const fed =
    input === undefined
      ? undefined
      : running.write(typeof input === 'string' ? Buffer.from(input) : input).then(() => running.end())
  const result = await collect(running)
  await fed
  return result
}

/** What a command said until its end. */
export const collect = async (events: AsyncIterable<ProcessEvent>): Promise<CommandResult> => {
  const kept = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
  let bytes = 0
  for await (const event of events) {
    if (event.type === 'exit') return result(kept, event)
    if (event.type === 'started') continue
    bytes += event.data.length
    if (bytes > maxKeptBytes) throw new Error(`more than ${maxKeptBytes} bytes of output`)
    kept[event.type].push(event.data)
  }
  throw new Error('the events ended without an exit')
}

const result = (kept: { stdout: Buffer[]; stderr: Buffer[] }, exit: ProcessExit): CommandResult => ({
  stdout: Buffer.concat(kept.stdout),
  stderr: Buffer.concat(kept.stderr),
  exit,
})

/** The standard output of a command that must succeed, as text. */
export const outputOf = async (...args: Parameters<typeof runCommand>): Promise<string> => {
  const { stdout, stderr, exit } = await runCommand(...args)
  if (exit.kind !== 'exited' || exit.code !== 0)
    throw new Error(`${JSON.stringify(args[1])} ended with ${JSON.stringify(exit)}: ${stderr}`)
  return stdout.toString()
}

/** The exit code of a command, or `signal 9`, or `failed at exec (2)`. */
export const endOf = async (...args: Parameters<typeof runCommand>): Promise<number | string> => {
  const { exit } = await runCommand(...args)
  if (exit.kind === 'exited') return exit.code
  return exit.kind === 'signalled' ? `signal ${exit.signal}` : `failed at ${exit.step} (${exit.errno})`
}
