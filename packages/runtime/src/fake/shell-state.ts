import type { Sink, Source } from './pipe.ts'
import { FakeProcess, type PipeEnd, type Program, type Status } from './process.ts'
import type { Command } from './shell-syntax.ts'
import type { World } from './world.ts'

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
  readonly jobs: Map<number, FakeProcess>
  /** The commands it is in, the outermost first: where a copy of it goes on. */
  readonly frames: Frame[]
  /** Of a copy that begins: the frames that its next commands go on in. */
  readonly resuming: Frame[]
}

/** How far a command has come. */
export interface Frame {
  readonly command: Command
  readonly streams: Streams
  /** With its own redirections, once they are made. */
  inner?: Streams
  /** Which of its parts runs; of a loop: 0 between turns, 1 the condition, 2 the body. */
  at: number
  /** Of the last turn of a loop. */
  status: number
  /** What is left of the words of `for`. */
  values?: string[]
  /** The words of a simple command, once they are expanded. */
  argv?: string[]
  /** What it started and waits for. */
  children?: FakeProcess[]
}

const copyStreams = (streams: Streams, world: World): Streams =>
  streams instanceof FakeProcess
    ? world.process(streams)
    : {
        stdin: streams.stdin.copy(world),
        stdout: streams.stdout.copy(world),
        stderr: streams.stderr.copy(world),
      }

const copyFrame = (frame: Frame, world: World): Frame => ({
  ...frame,
  streams: copyStreams(frame.streams, world),
  ...(frame.inner && { inner: copyStreams(frame.inner, world) }),
  ...(frame.values && { values: [...frame.values] }),
  ...(frame.children && { children: frame.children.map((child) => world.process(child)) }),
})

export const copyShell = (shell: Shell, world: World): Shell => ({
  ...shell,
  process: world.process(shell.process),
  variables: new Map(shell.variables),
  exported: new Set(shell.exported),
  positional: [...shell.positional],
  jobs: new Map([...shell.jobs].map(([pid, job]) => [pid, world.process(job)])),
  frames: shell.frames.map((frame) => copyFrame(frame, world)),
  resuming: [],
})

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
  options: { env?: Map<string, string>; closes?: readonly PipeEnd[] } = {},
): FakeProcess => {
  const { process } = shell
  const child = new FakeProcess({
    machine: process.machine,
    argv,
    env: options.env ?? environment(shell),
    closes: options.closes ?? [],
    workdir: process.workdir,
    user: process.user,
    group: process.group,
    ignored: process.ignored,
    stdin: streams.stdin,
    stdout: streams.stdout,
    stderr: streams.stderr,
  })
  // What rejects here is no failure of the program: nobody is to miss it.
  void child.run(program)
  return child
}

export const environment = (shell: Shell): Map<string, string> =>
  new Map([...shell.variables].filter(([name]) => shell.exported.has(name)))
