import { posix } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { type Credentials, type FakeFileSystem, type FileNode, SystemError } from './file-system.ts'
import { BrokenPipe, type Pipe, type Sink, type Source } from './pipe.ts'
import type { Continuation, World } from './world.ts'

/** Time of a fake sandbox: a test may pass one that it moves by hand. */
export interface FakeClock {
  sleep(ms: number, options: { signal: AbortSignal }): Promise<unknown>
  /** Nanoseconds since 1970. Absent: time stands still for who asks. */
  nowNs?(): bigint
}

export const nowNsOf = (clock: FakeClock): bigint => clock.nowNs?.() ?? 0n

/** One fake sandbox as its commands see it. */
export interface Machine {
  readonly files: FakeFileSystem
  readonly hostname: string
  readonly clock: FakeClock
  readonly programs: ReadonlyMap<string, Program>
  readonly processes: Map<number, FakeProcess>
  nextPid: number
  oomKills: number
  /** While its processes are to stand still: resolves when they may go on. */
  frozen?: Promise<void> | undefined
  /** Ends the whole sandbox, as the death of its agent would. */
  die(detail: string): void
  /** Takes an event of a program, when there is room for it. */
  emit(data: Buffer): Promise<void>
}

/** What a file of a fake sandbox does when it is executed; resolves with the exit code. */
export type Program = (process: FakeProcess) => Promise<number>

export type Status = { code: number } | { signal: number }

export class Killed extends Error {
  readonly signal: number

  constructor(signal: number) {
    super(`killed by signal ${signal}`)
    this.signal = signal
  }
}

/** Ends the process from anywhere inside it. */
export class Exit extends Error {
  readonly code: number

  constructor(code: number) {
    super(`exit ${code}`)
    this.code = code
  }
}

export const SIGNALS: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  KILL: 9,
  USR1: 10,
  SEGV: 11,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  CHLD: 17,
  CONT: 18,
  STOP: 19,
}
/** CHLD, CONT, URG, WINCH are ignored by default (signal(7)); stopping is not part of the fake. */
const WITHOUT_EFFECT = new Set([0, 17, 18, 19, 20, 21, 22, 23, 28])

export interface ProcessStart {
  readonly machine: Machine
  readonly argv: readonly string[]
  readonly env: Map<string, string>
  readonly workdir: string
  readonly user: Credentials
  readonly group?: number | undefined
  readonly ignored?: ReadonlySet<number>
  readonly stdin: Source
  readonly stdout: Sink
  readonly stderr: Sink
  /** Ends of pipes that are closed with it. */
  readonly closes?: readonly PipeEnd[]
  /** Of a copy: the one that it had. */
  readonly pid?: number
}

export interface PipeEnd {
  readonly pipe: Pipe
  readonly end: 'read' | 'write'
}

const WRITES_BETWEEN_YIELDS = 64

/** One process of a fake sandbox: an asynchronous function with a pid, three streams, and signals. */
export class FakeProcess {
  readonly machine: Machine
  argv: readonly string[]
  readonly env: Map<string, string>
  readonly user: Credentials
  readonly pid: number
  readonly group: number
  readonly ignored: Set<number>
  readonly traps = new Map<number, string>()
  readonly pending: number[] = []
  readonly closes: readonly PipeEnd[]
  readonly #kill = new AbortController()
  readonly #exited = Promise.withResolvers<Status>()
  #status: Status | undefined
  #continuation: Continuation | undefined
  workdir: string
  stdin: Source
  stdout: Sink
  stderr: Sink
  #writes = 0

  constructor(start: ProcessStart) {
    this.machine = start.machine
    this.argv = start.argv
    this.env = start.env
    this.user = start.user
    this.workdir = start.workdir
    this.stdin = start.stdin
    this.stdout = start.stdout
    this.stderr = start.stderr
    this.closes = start.closes ?? []
    this.pid = start.pid ?? start.machine.nextPid++
    this.group = start.group ?? this.pid
    this.ignored = new Set(start.ignored)
    this.machine.processes.set(this.pid, this)
  }

  /** How a copy of it would go on; undefined where no copy can be made of it now. */
  get continuation(): Continuation | undefined {
    return this.#continuation
  }

  /** While `wait` goes on, a copy of this process goes on with `continuation`. */
  async parked<T>(continuation: Continuation, wait: () => Promise<T>): Promise<T> {
    const before = this.#continuation
    this.#continuation = continuation
    try {
      return await wait()
    } finally {
      this.#continuation = before
    }
  }

  /** The process that stands for it in a copy of the sandbox; it does not run yet. */
  copy(world: World): FakeProcess {
    const { machine } = world
    const { argv, workdir, user, group, ignored, pid } = this
    const copy = new FakeProcess({
      ...{ machine, argv, env: new Map(this.env), workdir, user, group, ignored, pid },
      stdin: this.stdin.copy(world),
      stdout: this.stdout.copy(world),
      stderr: this.stderr.copy(world),
      closes: this.closes.map(({ pipe, end }) => ({ pipe: pipe.copy(world), end })),
    })
    for (const [signal, script] of this.traps) copy.traps.set(signal, script)
    copy.pending.push(...this.pending)
    if (this.#status) copy.#over(this.#status)
    return copy
  }

  /** To be called once all that it is connected to has its copy. */
  continueAs(original: FakeProcess, world: World): void {
    this.#continuation = original.#continuation?.copy(world)
  }

  get signal(): AbortSignal {
    return this.#kill.signal
  }

  /** How it ended, once it is over. */
  get exited(): Promise<Status> {
    return this.#exited.promise
  }

  #over(status: Status): void {
    this.#status = status
    this.machine.processes.delete(this.pid)
    this.#exited.resolve(status)
  }

  kill(signal: number): void {
    if (signal !== 9 && (WITHOUT_EFFECT.has(signal) || this.ignored.has(signal))) return
    if (signal !== 9 && this.traps.has(signal)) this.pending.push(signal)
    else this.#kill.abort(new Killed(signal))
  }

  /** Runs `program` as this process; never rejects for what the program did. */
  async run(program: Program): Promise<Status> {
    let status: Status = { signal: 9 }
    try {
      status = await this.#statusOf(program)
      return status
    } finally {
      for (const { pipe, end } of this.closes) end === 'write' ? pipe.end() : pipe.break()
      this.#over(status)
    }
  }

  async #statusOf(program: Program): Promise<Status> {
    try {
      return { code: await program(this) }
    } catch (error) {
      if (error instanceof Killed) return { signal: error.signal }
      if (error instanceof Exit) return { code: error.code }
      if (error instanceof BrokenPipe) return { signal: 13 }
      if (!(error instanceof SystemError)) throw error
      await this.print('stderr', `${this.argv[0]}: ${error.message}\n`).catch(() => undefined)
      return { code: 1 }
    }
  }

  async print(stream: 'stdout' | 'stderr', text: string): Promise<void> {
    await this.write(stream, Buffer.from(text))
  }

  async write(stream: 'stdout' | 'stderr', data: Buffer): Promise<void> {
    if (++this.#writes % WRITES_BETWEEN_YIELDS === 0) await this.yield()
    await this[stream].write(data, this.signal)
  }

  read(): Promise<Buffer | undefined> {
    return this.stdin.read(this.signal)
  }

  /** Lets the rest of the program run: an endless loop of the sandbox must not be one of the host. */
  async yield(): Promise<void> {
    await setImmediate()
    while (this.machine.frozen) await this.machine.frozen
    this.signal.throwIfAborted()
  }

  path(path: string): string {
    return posix.resolve(this.workdir, path)
  }
}

const DEFAULT_PATH = '/usr/local/bin:/usr/bin:/bin'

/** The file that executing `name` runs, looked up in `PATH` the way execvp(3) does. */
const findExecutable = (
  machine: Machine,
  name: string,
  from: { env: Map<string, string>; workdir: string; user: Credentials },
) => {
  const paths = name.includes('/')
    ? [posix.resolve(from.workdir, name)]
    : (from.env.get('PATH') ?? DEFAULT_PATH).split(':').map((directory) => posix.join(directory || '.', name))
  let worst: SystemError = new SystemError('ENOENT')
  for (const path of paths) {
    try {
      const node = machine.files.get(path, from.user)
      if (node.kind === 'file' && machine.files.executable(node, from.user))
        // A script is told the name as it was given.
        return { path: name.includes('/') ? name : path, node }
      worst = new SystemError('EACCES')
    } catch (error) {
      if (!(error instanceof SystemError)) throw error
      if (error.errno === 'EACCES') worst = error
    }
  }
  throw worst
}

/** The program of a file: a built-in one, or the shell for a script. Throws `SystemError` like execve(2). */
export const loadProgram = (
  machine: Machine,
  argv: readonly string[],
  from: { env: Map<string, string>; workdir: string; user: Credentials },
): { program: Program; argv: readonly string[] } => {
  const { path, node } = findExecutable(machine, argv[0] ?? '', from)
  const builtIn = node.program === undefined ? undefined : machine.programs.get(node.program)
  if (builtIn) return { program: builtIn, argv }
  const [, interpreter, argument] = /^#!\s*(\S+)[ \t]*(.*)\n/.exec(head(node)) ?? []
  if (interpreter === undefined || interpreter === path) throw new SystemError('ENOEXEC')
  return loadProgram(machine, [interpreter, ...(argument ? [argument] : []), path, ...argv.slice(1)], from)
}

const head = (node: FileNode): string => (node.chunks[0] ?? Buffer.alloc(0)).subarray(0, 256).toString('latin1')
