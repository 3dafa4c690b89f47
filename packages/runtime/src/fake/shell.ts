import { fileSink, fileSource } from './devices.ts'
import { type Errno, SystemError } from './file-system.ts'
import { emptySource, nullSink, Pipe, type Sink } from './pipe.ts'
import { Exit, type FakeProcess, Killed, loadProgram, type PipeEnd, type Program, type Status } from './process.ts'
import { BUILT_IN } from './shell-builtins.ts'
import {
  copyShell,
  environment,
  type Frame,
  finish,
  LoopJump,
  type Shell,
  type Streams,
  startChild,
  waitFor,
} from './shell-state.ts'
import { type Command, parseShell, type Redirect, ShellSyntaxError, type Word } from './shell-syntax.ts'
import type { Continuation } from './world.ts'

/** `sh`: `-c SCRIPT [NAME ARGS…]`, `FILE [ARGS…]`, or a script on standard input. */
export const shell: Program = async (process) => {
  const flags = /^-[a-z]+$/.test(process.argv[1] ?? '') ? (process.argv[1] ?? '') : ''
  const rest = process.argv.slice(flags ? 2 : 1)
  let script: string
  let name = process.argv[0] ?? 'sh'
  if (flags.includes('c')) {
    script = rest.shift() ?? ''
    name = rest.shift() ?? name
  } else if (rest.length > 0) {
    name = rest.shift() ?? name
    const { chunks } = process.machine.files.read(process.path(name), process.user)
    script = Buffer.concat(chunks).toString()
  } else script = (await readAll(process)).toString()
  const state: Shell = {
    process,
    variables: new Map(process.env),
    exported: new Set(process.env.keys()),
    name,
    positional: rest,
    status: 0,
    errexit: flags.includes('e'),
    lastBackground: 0,
    jobs: new Map(),
    frames: [],
    resuming: [],
  }
  try {
    await run(state, parseShell(script), process)
    return state.status
  } catch (error) {
    if (!(error instanceof ShellSyntaxError)) throw error
    await process.print('stderr', `sh: ${error.message}\n`)
    return 2
  }
}

const continuationOf = (shell: Shell): Continuation => ({
  copy: (world) => continuationOf(copyShell(shell, world)),
  run: async (process) => {
    shell.resuming.push(...shell.frames.splice(0))
    const outermost = shell.resuming[0]
    if (outermost) await run(shell, outermost.command, process)
    return shell.status
  },
})

/** Waits for what a copy of the shell would wait for again. */
const parked = <T>(shell: Shell, wait: () => Promise<T>): Promise<T> =>
  shell.process.parked(continuationOf(shell), wait)

const ends = async (shell: Shell, children: readonly FakeProcess[]): Promise<Status> => {
  const statuses = await parked(shell, () => waitFor(shell, Promise.all(children.map(({ exited }) => exited))))
  return statuses.at(-1) ?? { code: 0 }
}

const readAll = async (process: FakeProcess): Promise<Buffer> => {
  const chunks: Buffer[] = []
  for (let chunk = await process.read(); chunk; chunk = await process.read()) chunks.push(chunk)
  return Buffer.concat(chunks)
}

const run = async (shell: Shell, command: Command, streams: Streams): Promise<number> => {
  const frame = shell.resuming.shift() ?? { command, streams, at: 0, status: 0 }
  const depth = shell.frames.push(frame)
  try {
    return await step(shell, frame)
  } finally {
    shell.frames.length = depth - 1
  }
}

/** Goes on with a command where its frame says, to its end. */
const step = async (shell: Shell, frame: Frame): Promise<number> => {
  const { command, streams } = frame
  shell.process.signal.throwIfAborted()
  switch (command.type) {
    case 'list':
      for (let item = command.items[frame.at]; item; item = command.items[++frame.at]) {
        if (item.background) startJob(shell, item.command, streams)
        else await run(shell, item.command, streams)
        await runTraps(shell, streams)
        if (shell.errexit && shell.status !== 0 && item.command.type === 'simple') throw new Exit(shell.status)
      }
      return shell.status
    case 'and':
    case 'or':
      if (frame.at === 0) {
        const left = await run(shell, command.left, streams)
        if ((left === 0) !== (command.type === 'and')) return left
        frame.at = 1
      }
      return run(shell, command.right, streams)
    case 'pipeline': {
      frame.children ??= startStages(shell, command.stages, streams)
      const status = finish(shell, await ends(shell, frame.children))
      if (command.negated) shell.status = status === 0 ? 1 : 0
      return shell.status
    }
    case 'group': {
      frame.inner ??= await redirect(shell, command.redirects, streams)
      if (!command.subshell) return run(shell, command.body, frame.inner)
      frame.children ??= [fork(shell, command.body, frame.inner)]
      return finish(shell, await ends(shell, frame.children))
    }
    case 'if': {
      frame.inner ??= await redirect(shell, command.redirects, streams)
      if (frame.at === 0) frame.at = (await run(shell, command.condition, frame.inner)) === 0 ? 1 : 2
      if (frame.at === 1) return run(shell, command.then, frame.inner)
      shell.status = 0
      return command.otherwise ? run(shell, command.otherwise, frame.inner) : 0
    }
    case 'loop':
      return loop(shell, frame, command, async (inner) => {
        return ((await run(shell, command.condition, inner)) === 0) !== command.until
      })
    case 'for': {
      frame.values ??= await expandAll(shell, command.words, streams)
      const { values } = frame
      return loop(shell, frame, command, async () => {
        const value = values.shift()
        if (value !== undefined) shell.variables.set(command.name, value)
        return value !== undefined
      })
    }
    case 'simple':
      return runSimple(shell, frame, command)
    default:
      return command satisfies never
  }
}

/** Turns of `command`'s body, each after `more` said that there is one. */
const loop = async (
  shell: Shell,
  frame: Frame,
  command: Extract<Command, { type: 'loop' | 'for' }>,
  more: (inner: Streams) => Promise<boolean>,
): Promise<number> => {
  if (!frame.inner) {
    frame.inner = await redirect(shell, command.redirects, frame.streams)
    shell.status = 0
  }
  for (;;) {
    try {
      if (frame.at === 0) {
        await parked(shell, () => shell.process.yield())
        frame.at = 1
      }
      if (frame.at === 1) {
        if (!(await more(frame.inner))) break
        frame.at = 2
      }
      await run(shell, command.body, frame.inner)
      frame.status = shell.status
    } catch (error) {
      if (!(error instanceof LoopJump)) throw error
      error.levels--
      if (error.levels > 0) throw error
      if (!error.again) break
    }
    frame.at = 0
  }
  shell.status = frame.status
  return frame.status
}

/** A copy of the shell as a process of its own. */
const fork = (shell: Shell, command: Command, streams: Streams, closes: readonly PipeEnd[] = []): FakeProcess => {
  const program: Program = async (process) => {
    const copy: Shell = {
      ...shell,
      process,
      variables: new Map(shell.variables),
      exported: new Set(shell.exported),
      jobs: new Map(),
      frames: [],
      resuming: [],
    }
    await run(copy, command, process)
    return copy.status
  }
  return startChild(shell, shell.process.argv, streams, program, { closes })
}

const startJob = (shell: Shell, command: Command, streams: Streams): void => {
  const child = fork(shell, command, { ...streams, stdin: emptySource })
  shell.lastBackground = child.pid
  shell.jobs.set(child.pid, child)
  shell.status = 0
}

const startStages = (shell: Shell, stages: readonly Command[], streams: Streams): FakeProcess[] => {
  let input: Pipe | undefined
  return stages.map((stage, index) => {
    const output = index === stages.length - 1 ? undefined : new Pipe()
    const closes: PipeEnd[] = []
    if (output) closes.push({ pipe: output, end: 'write' })
    if (input) closes.push({ pipe: input, end: 'read' })
    const { stdin, stdout, stderr } = streams
    const child = fork(shell, stage, { stdin: input ?? stdin, stdout: output ?? stdout, stderr }, closes)
    input = output
    return child
  })
}

const runTraps = async (shell: Shell, streams: Streams): Promise<void> => {
  for (let signal = shell.process.pending.shift(); signal !== undefined; signal = shell.process.pending.shift()) {
    const script = shell.process.traps.get(signal)
    if (script) await run(shell, parseShell(script), streams)
  }
}

/** Those that wait; where one of them is interrupted, a copy of the shell runs it again. */
const WAITING: ReadonlySet<string> = new Set(['read', 'wait'])

const runSimple = async (shell: Shell, frame: Frame, command: Extract<Command, { type: 'simple' }>) => {
  const { streams } = frame
  try {
    if (!frame.children) {
      const status = await beginSimple(shell, frame, command)
      if (status !== undefined) return status
    }
    const status = await ends(shell, frame.children ?? [])
    if (frame.argv?.[0] !== 'exec') return finish(shell, status)
    throw 'signal' in status ? new Killed(status.signal) : new Exit(status.code)
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    const name = frame.argv?.[0]
    const text = error.errno === 'ENOENT' && name !== undefined ? 'not found' : error.message
    await streams.stderr.write(Buffer.from(`${shell.name}: ${name ?? ''}: ${text}\n`), shell.process.signal)
    shell.status = NOT_RUN[error.errno] ?? 126
    return shell.status
  }
}

/** Up to its end where the shell does it itself, with the status; else up to the start of a child. */
const beginSimple = async (shell: Shell, frame: Frame, command: Extract<Command, { type: 'simple' }>) => {
  const { streams } = frame
  const assigned: [string, string][] = []
  if (!frame.argv) {
    for (const { name, value } of command.assignments) assigned.push([name, await expandOne(shell, value, streams)])
    frame.argv = await expandAll(shell, command.words, streams)
  }
  const { argv } = frame
  const [name] = argv
  frame.inner ??= await redirect(shell, command.redirects, streams)
  const { inner } = frame
  if (name === undefined) {
    for (const [variable, value] of assigned) shell.variables.set(variable, value)
    if (assigned.length > 0 && !command.assignments.some(({ value }) => value.some((part) => part.type === 'output')))
      shell.status = 0
    return shell.status
  }
  const builtIn = BUILT_IN.get(name)
  const replaces = name === 'exec' && argv.length > 1
  if (builtIn && !replaces) {
    const act = () => builtIn(shell, argv, inner, command.redirects.length > 0)
    shell.status = await (WAITING.has(name) ? parked(shell, act) : act())
    return shell.status
  }
  const { process } = shell
  const found = loadProgram(process.machine, replaces ? argv.slice(1) : argv, {
    env: shell.variables,
    workdir: process.workdir,
    user: process.user,
  })
  const env = new Map([...environment(shell), ...assigned])
  frame.children = [startChild(shell, found.argv, inner, found.program, { env })]
  return undefined
}

const NOT_RUN: Partial<Record<Errno, number>> = { ENOENT: 127 }

const redirect = async (shell: Shell, redirects: readonly Redirect[], from: Streams): Promise<Streams> => {
  const streams = { stdin: from.stdin, stdout: from.stdout, stderr: from.stderr }
  const { process } = shell
  const set = (fd: number, sink: Sink) => {
    if (fd === 1) streams.stdout = sink
    if (fd === 2) streams.stderr = sink
  }
  for (const { fd, mode, target } of redirects) {
    const text = await expandOne(shell, target, from)
    if (mode === '&') {
      if (fd === 0) streams.stdin = emptySource
      else set(fd, text === '1' ? streams.stdout : text === '2' ? streams.stderr : nullSink)
    } else if (mode === '<') streams.stdin = fileSource(process.machine.files.read(process.path(text), process.user))
    else set(fd, fileSink(process.machine, process.path(text), process.user, mode === '>'))
  }
  return streams
}

const expandOne = async (shell: Shell, word: Word, streams: Streams): Promise<string> =>
  (await expand(shell, word, streams, false)).join(' ')

const expandAll = async (shell: Shell, words: readonly Word[], streams: Streams): Promise<string[]> => {
  const fields: string[] = []
  for (const word of words) fields.push(...(await expand(shell, word, streams, true)))
  return fields
}

/** Parameter expansion, command substitution, and field splitting of what was not quoted (POSIX 2.6). */
const expand = async (shell: Shell, word: Word, streams: Streams, split: boolean): Promise<string[]> => {
  const fields: string[] = []
  let field: string | undefined
  const add = (text: string) => {
    field = (field ?? '') + text
  }
  for (const part of word) {
    if (part.type === 'text') {
      if (part.text !== '' || part.quoted) add(part.text)
      continue
    }
    if (part.type === 'variable' && part.name === '@' && part.quoted && split) {
      for (const [index, value] of shell.positional.entries()) {
        if (index > 0) fields.push(field ?? '')
        field = index > 0 ? value : (field ?? '') + value
      }
      continue
    }
    const value =
      part.type === 'output' ? await outputOf(shell, part.command, streams) : await valueFor(shell, part, streams)
    if (part.quoted || !split) {
      add(value)
      continue
    }
    const pieces = value.split(/[ \t\n]+/)
    for (const [index, piece] of pieces.entries()) {
      if (index > 0 && field !== undefined) fields.push(field)
      if (index > 0) field = undefined
      if (piece !== '') add(piece)
    }
  }
  return field === undefined ? fields : [...fields, field]
}

const valueFor = async (shell: Shell, part: Extract<Word[number], { type: 'variable' }>, streams: Streams) => {
  const special: Record<string, () => string> = {
    '?': () => String(shell.status),
    $: () => String(shell.process.pid),
    '!': () => String(shell.lastBackground),
    '#': () => String(shell.positional.length),
    '0': () => shell.name,
    '@': () => shell.positional.join(' '),
    '*': () => shell.positional.join(' '),
  }
  const value = special[part.name]?.() ?? shell.positional[Number(part.name) - 1] ?? shell.variables.get(part.name)
  if (part.fallback && (value === undefined || value === '')) return expandOne(shell, part.fallback, streams)
  return value ?? ''
}

const outputOf = async (shell: Shell, command: Command, streams: Streams): Promise<string> => {
  const pipe = new Pipe()
  const child = fork(shell, command, { ...streams, stdout: pipe }, [{ pipe, end: 'write' }])
  const chunks: Buffer[] = []
  for (;;) {
    const chunk = await pipe.read(shell.process.signal)
    if (!chunk) break
    chunks.push(chunk)
  }
  finish(shell, await waitFor(shell, child.exited))
  return Buffer.concat(chunks).toString().replace(/\n+$/, '')
}
