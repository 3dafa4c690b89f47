import { Exit, SIGNALS } from './process.ts'
import { finish, LoopJump, type Shell, type Streams, waitFor } from './shell-state.ts'

/** What the shell does itself, since it changes the shell: resolves with the exit code. */
type BuiltIn = (shell: Shell, argv: readonly string[], streams: Streams, redirected: boolean) => Promise<number>

export const BUILT_IN: ReadonlyMap<string, BuiltIn> = new Map<string, BuiltIn>([
  [':', async () => 0],
  [
    'cd',
    async (shell, argv) => {
      const path = shell.process.path(argv[1] ?? shell.variables.get('HOME') ?? '/')
      shell.process.machine.files.directory(path, shell.process.user)
      shell.process.workdir = path
      return 0
    },
  ],
  [
    'exit',
    async (shell, argv) => {
      throw new Exit(Number(argv[1] ?? shell.status) & 255)
    },
  ],
  [
    'export',
    async (shell, argv) => {
      for (const item of argv.slice(1)) {
        const [name = '', ...value] = item.split('=')
        if (item.includes('=')) shell.variables.set(name, value.join('='))
        shell.exported.add(name)
      }
      return 0
    },
  ],
  [
    'unset',
    async (shell, argv) => {
      for (const name of argv.slice(1)) shell.variables.delete(name)
      return 0
    },
  ],
  [
    'set',
    async (shell, argv) => {
      if (/^[-+]\w*e/.test(argv[1] ?? '')) shell.errexit = argv[1]?.startsWith('-') ?? false
      if (argv[1] === '--') shell.positional = argv.slice(2)
      return 0
    },
  ],
  [
    'shift',
    async (shell) => {
      shell.positional.shift()
      return 0
    },
  ],
  [
    'trap',
    async (shell, argv) => {
      for (const name of argv.slice(2)) {
        const signal = SIGNALS[name.replace(/^SIG/, '')] ?? Number(name)
        if (argv[1] === '') shell.process.ignored.add(signal)
        else if (argv[1] === '-') shell.process.traps.delete(signal)
        else shell.process.traps.set(signal, argv[1] ?? '')
      }
      return 0
    },
  ],
  [
    'wait',
    async (shell, argv) => {
      const pids = argv.length > 1 ? argv.slice(1).map(Number) : [...shell.jobs.keys()]
      let status = 0
      for (const pid of pids) {
        const job = shell.jobs.get(pid)
        status = job ? finish(shell, await waitFor(shell, job.exited)) : 127
        shell.jobs.delete(pid)
      }
      return argv.length > 1 ? status : 0
    },
  ],
  [
    // With a command, `runSimple` replaces the shell.
    'exec',
    async (shell, _argv, streams, redirected) => {
      if (redirected) Object.assign(shell.process, streams)
      return 0
    },
  ],
  [
    'read',
    async (shell, argv, streams) => {
      const line = await streams.stdin.read(shell.process.signal)
      const text = line?.toString() ?? ''
      // What follows the first line is lost: a source cannot be given bytes back.
      shell.variables.set(argv.filter((word) => !word.startsWith('-'))[1] ?? 'REPLY', text.split('\n')[0] ?? '')
      return line ? 0 : 1
    },
  ],
  ...(['break', 'continue'] as const).map((name): [string, BuiltIn] => [
    name,
    async (_shell, argv) => {
      throw new LoopJump(Number(argv[1] ?? 1), name === 'continue')
    },
  ]),
])
