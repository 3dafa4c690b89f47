import { fileSink, fileSource } from './devices.ts'
import { type Errno, SystemError } from './file-system.ts'
import { emptySource, nullSink, Pipe, type Sink } from './pipe.ts'
import { Exit, type FakeProcess, loadProgram, type Program } from './process.ts'
import { BUILT_IN } from './shell-builtins.ts'
import { environment, finish, LoopJump, type Shell, type Streams, startChild, waitFor } from './shell-state.ts'
import { type Command, parseShell, type Redirect, ShellSyntaxError, type Word } from './shell-syntax.ts'

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

const readAll = async (process: FakeProcess): Promise<Buffer> => {
  const chunks: Buffer[] = []
  for (let chunk = await process.read(); chunk; chunk = await process.read()) chunks.push(chunk)
  return Buffer.concat(chunks)
}

const run = async (shell: Shell, command: Command, streams: Streams): Promise<number> => {
  shell.process.signal.throwIfAborted()
  switch (command.type) {
    case 'list':
      for (const { command: item, background } of command.items) {
        if (background) startJob(shell, item, streams)
        else await run(shell, item, streams)
        await runTraps(shell, streams)
        if (shell.errexit && shell.status !== 0 && item.type === 'simple') throw new Exit(shell.status)
      }
      return shell.status
    case 'and':
    case 'or': {
      const left = await run(shell, command.left, streams)
      return (left === 0) === (command.type === 'and') ? run(shell, command.right, streams) : left
    }
    case 'pipeline':
      return runPipeline(shell, command, streams)
    case 'group': {
      const inner = await redirect(shell, command.redirects, streams)
      if (!command.subshell) return run(shell, command.body, inner)
      return finish(shell, await waitFor(shell, fork(shell, command.body, inner).done))
    }
    case 'if': {
      const inner = await redirect(shell, command.redirects, streams)
      if ((await run(shell, command.condition, inner)) === 0) return run(shell, command.then, inner)
      shell.status = 0
      return command.otherwise ? run(shell, command.otherwise, inner) : 0
    }
    case 'loop': {
      const inner = await redirect(shell, command.redirects, streams)
      return loop(shell, async () => {
        if (((await run(shell, command.condition, inner)) === 0) === command.until) return false
        await run(shell, command.body, inner)
        return true
      })
    }
    case 'for': {
      const inner = await redirect(shell, command.redirects, streams)
      const values = await expandAll(shell, command.words, streams)
      return loop(shell, async () => {
        const value = values.shift()
        if (value === undefined) return false
        shell.variables.set(command.name, value)
        await run(shell, command.body, inner)
        return true
      })
    }
    case 'simple':
      return runSimple(shell, command, streams)
    default:
      return command satisfies never
  }
}

const loop = async (shell: Shell, turn: () => Promise<boolean>): Promise<number> => {
  shell.status = 0
  let status = 0
  for (;;) {
    await shell.process.yield()
    try {
      if (!(await turn())) break
      status = shell.status
    } catch (error) {
      if (!(error instanceof LoopJump)) throw error
      error.levels--
      if (error.levels > 0) throw error
      if (!error.again) break
    }
  }
  shell.status = status
  return status
}

/** A copy of the shell as a process of its own. */
const fork = (shell: Shell, command: Command, streams: Streams) =>
  startChild(shell, shell.process.argv, streams, async (process) => {
    const copy: Shell = {
      ...shell,
      process,
      variables: new Map(shell.variables),
      exported: new Set(shell.exported),
      jobs: new Map(),
    }
    await run(copy, command, process)
    return copy.status
  })

const startJob = (shell: Shell, command: Command, streams: Streams): void => {
  const { child, done } = fork(shell, command, { ...streams, stdin: emptySource })
  shell.lastBackground = child.pid
  shell.jobs.set(child.pid, done)
  shell.status = 0
}

const runPipeline = async (shell: Shell, command: Extract<Command, { type: 'pipeline' }>, streams: Streams) => {
  let { stdin } = streams
  const stages = command.stages.map((stage, index) => {
    const input = stdin
    const output = index === command.stages.length - 1 ? undefined : new Pipe()
    if (output) stdin = output
    return fork(shell, stage, { ...streams, stdin: input, stdout: output ?? streams.stdout }).done.finally(() => {
      output?.end()
      if (input instanceof Pipe && index > 0) input.break()
    })
  })
  const statuses = await waitFor(shell, Promise.all(stages))
  const status = finish(shell, statuses[statuses.length - 1] ?? { code: 0 })
  if (command.negated) shell.status = status === 0 ? 1 : 0
  return shell.status
}

const runTraps = async (shell: Shell, streams: Streams): Promise<void> => {
  for (let signal = shell.process.pending.shift(); signal !== undefined; signal = shell.process.pending.shift()) {
    const script = shell.process.traps.get(signal)
    if (script) await run(shell, parseShell(script), streams)
  }
}

const runSimple = async (shell: Shell, command: Extract<Command, { type: 'simple' }>, streams: Streams) => {
  const assigned: [string, string][] = []
  for (const { name, value } of command.assignments) assigned.push([name, await expandOne(shell, value, streams)])
  const argv = await expandAll(shell, command.words, streams)
  const [name] = argv
  try {
    const inner = await redirect(shell, command.redirects, streams)
    if (name === undefined) {
      for (const [variable, value] of assigned) shell.variables.set(variable, value)
      if (assigned.length > 0 && !command.assignments.some(({ value }) => value.some((part) => part.type === 'output')))
        shell.status = 0
      return shell.status
    }
    const builtIn = BUILT_IN.get(name)
    if (builtIn) {
      shell.status = await builtIn(shell, argv, inner, command.redirects.length > 0)
      return shell.status
    }
    const env = new Map([...environment(shell), ...assigned])
    const { process } = shell
    const found = loadProgram(process.machine, argv, {
      env: shell.variables,
      workdir: process.workdir,
      user: process.user,
    })
    return finish(shell, await waitFor(shell, startChild(shell, found.argv, inner, found.program, env).done))
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    const text = error.errno === 'ENOENT' && name !== undefined ? 'not found' : error.message
    await streams.stderr.write(Buffer.from(`${shell.name}: ${name ?? ''}: ${text}\n`), shell.process.signal)
    shell.status = NOT_RUN[error.errno] ?? 126
    return shell.status
  }
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
  const { done } = fork(shell, command, { ...streams, stdout: pipe })
  done.finally(() => pipe.end())
  const chunks: Buffer[] = []
  for (;;) {
    const chunk = await pipe.read(shell.process.signal)
    if (!chunk) break
    chunks.push(chunk)
  }
  finish(shell, await waitFor(shell, done))
  return Buffer.concat(chunks).toString().replace(/\n+$/, '')
}
