import { createHash } from 'node:crypto'
import { posix } from 'node:path'
import { type Credentials, type FileNode, type Node, SystemError } from './file-system.ts'
import { type FakeProcess, loadProgram, nowNsOf, type Program, SIGNALS } from './process.ts'
import { shell } from './shell.ts'
import { cat, dd, echo, hasFlag, head, inputs, operands, printf, tail, wc, yes } from './text-programs.ts'
import type { Continuation } from './world.ts'

const sleep: Program = async (process) => {
  const [, digits = '', unit = ''] = /^(\d*\.?\d+)([smh]?)$/.exec(process.argv[1] ?? '') ?? []
  if (digits === '') throw new SystemError('EINVAL')
  return sleeping(Number(digits) * 1000 * ({ s: 1, m: 60, h: 3600 }[unit] ?? 1)).run(process)
}

/** A copy sleeps for what is left of it. */
const sleeping = (ms: number): Continuation => {
  let leftMs = () => ms
  const continuation: Continuation = {
    copy: () => sleeping(leftMs()),
    run: async (process) => {
      const { clock } = process.machine
      const begunNs = nowNsOf(clock)
      leftMs = () => Math.max(0, ms - Number(nowNsOf(clock) - begunNs) / 1e6)
      await process
        .parked(continuation, () => clock.sleep(ms, { signal: process.signal }))
        .catch((error) => {
          process.signal.throwIfAborted()
          throw error
        })
      return 0
    },
  }
  return continuation
}

const env: Program = async (process) => {
  const words = process.argv.slice(1)
  const end = words.findIndex((word) => !word.includes('='))
  for (const word of end < 0 ? words : words.slice(0, end)) {
    const at = word.indexOf('=')
    process.env.set(word.slice(0, at), word.slice(at + 1))
  }
  if (end >= 0) {
    const { program, argv } = loadProgram(process.machine, words.slice(end), process)
    process.argv = argv
    return program(process)
  }
  await process.print('stdout', [...process.env].map(([name, value]) => `${name}=${value}\n`).join(''))
  return 0
}

const printenv: Program = async (process) => {
  const value = process.env.get(process.argv[1] ?? '')
  if (value === undefined) return 1
  await process.print('stdout', `${value}\n`)
  return 0
}

const kill: Program = async (process) => {
  const words = process.argv.slice(1).filter((word) => word !== '--')
  const named = /^-([A-Z0-9]+)$/.exec(words[0] ?? '')?.[1]
  if (named !== undefined && words.length > 1) words.shift()
  const signal = named === undefined ? 15 : (SIGNALS[named.replace(/^SIG/, '')] ?? Number(named))
  let status = 0
  for (const word of words) {
    const pid = Number(word)
    const group = pid === 0 ? process.group : pid < -1 ? -pid : undefined
    const targets = [...process.machine.processes.values()].filter((other) =>
      pid === -1 ? other !== process : group === undefined ? other.pid === pid : other.group === group,
    )
    // PID 1 is the agent: signals from inside do not reach it.
    if (targets.length === 0 && pid !== 1) status = 1
    for (const target of targets) {
      if (process.user.uid !== 0 && target.user.uid !== process.user.uid) status = 1
      else target.kill(signal)
    }
  }
  process.signal.throwIfAborted()
  return status
}

const test: Program = async (process) => {
  const words = process.argv.slice(1, process.argv[0]?.endsWith('[') ? -1 : undefined)
  const negated = words[0] === '!'
  if (negated) words.shift()
  return evaluate(process, words) === negated ? 1 : 0
}

const evaluate = (process: FakeProcess, words: readonly string[]): boolean => {
  const [a = '', b = '', c = ''] = words
  if (words.length < 2) return a !== ''
  if (words.length === 2) {
    if (a === '-n') return b !== ''
    if (a === '-z') return b === ''
    const node = nodeAt(process, b)
    if (a === '-d') return node?.kind === 'directory'
    if (a === '-f') return node?.kind === 'file' && node.device === undefined
    if (a === '-x') return node?.kind === 'file' && process.machine.files.executable(node, process.user)
    if (a === '-s') return node?.kind === 'file' && node.sizeBytes > 0
    return node !== undefined
  }
  const compare: Record<string, boolean> = {
    '=': a === c,
    '!=': a !== c,
    '-eq': Number(a) === Number(c),
    '-ne': Number(a) !== Number(c),
    '-lt': Number(a) < Number(c),
    '-le': Number(a) <= Number(c),
    '-gt': Number(a) > Number(c),
    '-ge': Number(a) >= Number(c),
  }
  return compare[b] ?? false
}

const nodeAt = (process: FakeProcess, path: string): Node | undefined => {
  try {
    return process.machine.files.get(process.path(path), process.user)
  } catch (error) {
    if (error instanceof SystemError) return undefined
    throw error
  }
}

const nameOfUser = (process: FakeProcess, user: Credentials): string => {
  const passwd = Buffer.concat(process.machine.files.read('/etc/passwd', { uid: 0, gids: [0] }).chunks).toString()
  return /^([^:]+)/.exec(passwd.split('\n').find((line) => Number(line.split(':')[2]) === user.uid) ?? '')?.[1] ?? ''
}

const id: Program = async (process) => {
  const { uid, gids } = process.user
  const name = hasFlag(process, 'n') ? nameOfUser(process, process.user) : ''
  const text = hasFlag(process, 'G')
    ? gids.join(' ')
    : hasFlag(process, 'g')
      ? `${gids[0]}`
      : hasFlag(process, 'u')
        ? name || `${uid}`
        : `uid=${uid} gid=${gids[0]} groups=${gids.join(',')}`
  await process.print('stdout', `${text}\n`)
  return 0
}

const ls: Program = async (process) => {
  for (const path of operands(process).length > 0 ? operands(process) : ['.']) {
    const names = process.machine.files.list(process.path(path), process.user) ?? [path]
    await process.print('stdout', names.map((name) => `${name}\n`).join(''))
  }
  return 0
}

const printing =
  (text: (process: FakeProcess) => string): Program =>
  async (process) => {
    await process.print('stdout', text(process))
    return 0
  }

/** `files` of one command, with every path made absolute. */
const withFiles =
  (act: (process: FakeProcess, paths: string[]) => void | Promise<void>): Program =>
  async (process) => {
    await act(
      process,
      operands(process).map((path) => process.path(path)),
    )
    return 0
  }

const into = (process: FakeProcess, source: string, target: string): string =>
  nodeAt(process, target)?.kind === 'directory' ? posix.join(target, posix.basename(source)) : target

const copy = ({ machine, user }: FakeProcess, from: FileNode, to: string): void => {
  const file = machine.files.openForWrite(to, user, true)
  for (const chunk of from.chunks) machine.files.append(file, chunk)
  file.mode = from.mode
}

/** Every command of a fake sandbox, by the name of its file in `/bin`. */
export const PROGRAMS: ReadonlyMap<string, Program> = new Map<string, Program>([
  ['true', async () => 0],
  ['false', async () => 1],
  ['sh', shell],
  ['echo', echo],
  ['printf', printf],
  ['cat', cat],
  ['dd', dd],
  ['head', head],
  ['tail', tail],
  ['yes', yes],
  ['wc', wc],
  ['sleep', sleep],
  ['env', env],
  ['printenv', printenv],
  ['kill', kill],
  ['test', test],
  ['[', test],
  ['id', id],
  ['ls', ls],
  ['whoami', printing((process) => `${nameOfUser(process, process.user)}\n`)],
  ['pwd', printing((process) => `${process.workdir}\n`)],
  ['hostname', printing((process) => `${process.machine.hostname}\n`)],
  [
    'seq',
    async (process) => {
      const [first, last] = process.argv.length > 2 ? process.argv.slice(1).map(Number) : [1, Number(process.argv[1])]
      for (let n = first ?? 1; n <= (last ?? 0); n++) await process.print('stdout', `${n}\n`)
      return 0
    },
  ],
  [
    'sha256sum',
    async (process) => {
      const hash = createHash('sha256')
      for await (const chunk of inputs(process, operands(process))) hash.update(chunk)
      await process.print('stdout', `${hash.digest('hex')}  -\n`)
      return 0
    },
  ],
  [
    'tee',
    async (process) => {
      const files = operands(process).map((path) =>
        process.machine.files.openForWrite(process.path(path), process.user, true),
      )
      for await (const chunk of inputs(process, [])) {
        for (const file of files) process.machine.files.append(file, chunk)
        await process.write('stdout', chunk)
      }
      return 0
    },
  ],
  [
    'mkdir',
    withFiles(({ machine, user, argv }, paths) => {
      for (const path of paths) {
        if (!argv.includes('-p')) {
          machine.files.directory(posix.dirname(path), user)
          machine.files.make(
            path,
            { kind: 'directory', mode: 0o755, uid: user.uid, gid: user.gids[0] ?? 0, entries: new Map() },
            user,
          )
        } else machine.files.makeDirectories(path, user)
      }
    }),
  ],
  [
    'mkfifo',
    withFiles(({ machine, user }, paths) => {
      for (const path of paths)
        machine.files.make(path, { kind: 'fifo', mode: 0o644, uid: user.uid, gid: user.gids[0] ?? 0 }, user)
    }),
  ],
  [
    'touch',
    withFiles(({ machine, user }, paths) => {
      for (const path of paths) machine.files.openForWrite(path, user, false)
    }),
  ],
  [
    'rm',
    withFiles((process, paths) => {
      for (const path of paths)
        if (!hasFlag(process, 'f') || nodeAt(process, path))
          process.machine.files.remove(path, process.user, hasFlag(process, 'r'))
    }),
  ],
  [
    'mv',
    withFiles((process, [from = '', to = '']) => {
      process.machine.files.rename(from, into(process, from, to), process.user)
    }),
  ],
  [
    'cp',
    withFiles((process, [from = '', to = '']) => {
      copy(process, process.machine.files.read(from, process.user), into(process, from, to))
    }),
  ],
  [
    'ln',
    async (process) => {
      const [target = '', path = ''] = operands(process)
      if (!hasFlag(process, 's')) {
        process.machine.files.link(process.path(target), process.path(path), process.user)
        return 0
      }
      const owned = { mode: 0o777, uid: process.user.uid, gid: process.user.gids[0] ?? 0 }
      process.machine.files.make(process.path(path), { kind: 'link', target, ...owned }, process.user)
      return 0
    },
  ],
  [
    'chmod',
    async (process) => {
      const [mode = '', ...paths] = process.argv.slice(1)
      for (const path of paths) {
        const node = process.machine.files.get(process.path(path), process.user)
        if (process.user.uid !== 0 && node.uid !== process.user.uid) throw new SystemError('EPERM')
        node.mode = mode === '+x' ? node.mode | 0o111 : Number.parseInt(mode, 8)
      }
      return 0
    },
  ],
  [
    'chown',
    async (process) => {
      const [owner = '', ...paths] = process.argv.slice(1)
      if (process.user.uid !== 0) throw new SystemError('EPERM')
      const [uid, gid] = owner.split(':').map(Number)
      for (const path of paths) {
        const node = process.machine.files.get(process.path(path), process.user)
        node.uid = uid ?? node.uid
        node.gid = gid ?? node.gid
      }
      return 0
    },
  ],
  [
    'stat',
    async (process) => {
      const [, , format = '', ...paths] = process.argv
      for (const path of paths) {
        const { uid, gid, mode, modifiedNs } = process.machine.files.get(process.path(path), process.user)
        const seconds = `${modifiedNs / 1_000_000_000n}`
        const values: Record<string, string> = { '%u': `${uid}`, '%g': `${gid}`, '%a': mode.toString(8), '%Y': seconds }
        await process.print('stdout', `${format.replace(/%[ugaY]/g, (word) => values[word] ?? word)}\n`)
      }
      return 0
    },
  ],
  ['sync', async () => 0],
  // What a kernel does to a real sandbox, on demand: a command killed for want of memory, and the agent's death.
  [
    'fake-oom',
    async (process) => {
      process.machine.oomKills++
      process.kill(9)
      await process.yield()
      return 0
    },
  ],
  [
    'fake-die',
    async (process) => {
      process.machine.die('fake-die was run')
      await process.yield()
      return 0
    },
  ],
])
