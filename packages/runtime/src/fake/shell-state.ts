import type { Sink, Source } from './pipe.ts'
import { FakeProcess, type Program, type Status } from './process.ts'

export interface Streams {
  stdin: Source
  stdout: Sink
  stderr: Sink
}

export interface Shell {
  readonly process: FakeProcess
  readonly variables: Map<string, string>
  readonly exported: Set<string>
  readonly name: string
  positional: string[]
  status: number
  errexit: boolean
  lastBackground: number
  readonly jobs: Map<number, Promise<Status>>
}

/** `break` and `continue` travel as exceptions, `levels` loops outwards. */
export class LoopJump extends Error {
  levels: number
  readonly again: boolean

  constructor(levels: number, again: boolean) {
    super('break or continue outside a loop')
    this.levels = levels
    this.again = again
  }
}

export const finish = (shell: Shell, status: Status): number => {
  shell.status = 'code' in status ? status.code : 128 + status.signal
  return shell.status
}

/** Waits for a child; a shell that is killed meanwhile leaves the child running, as a real one does. */
export const waitFor = <T>(shell: Shell, done: Promise<T>): Promise<T> => {
  const { signal } = shell.process
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort)
    done.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

export const startChild = (
  shell: Shell,
  argv: readonly string[],
  streams: Streams,
  program: Program,
  env = environment(shell),
) => {
  const { process } = shell
  const child = new FakeProcess({
    machine: process.machine,
    argv,
    env,
    workdir: process.workdir,
    user: process.user,
    group: process.group,
    ignored: process.ignored,
    ...streams,
  })
  return { child, done: child.run(program) }
}

export const environment = (shell: Shell): Map<string, string> =>
  new Map([...shell.variables].filter(([name]) => shell.exported.has(name)))
