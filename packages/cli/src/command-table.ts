import type { CliCommand } from './command.ts'

interface Row {
  readonly summary: string
  load(): Promise<{ default: CliCommand }>
}

/** Every command, in the order of the help. Summaries stand here too, so that the help loads no command. */
export const COMMANDS = {
  up: { summary: 'Set this host up, start the node, run a first command', load: () => import('./commands/up.ts') },
  down: { summary: 'Stop the node that runs on this host', load: () => import('./commands/down.ts') },
  run: { summary: 'Run a command in a fresh sandbox', load: () => import('./commands/run.ts') },
  ps: { summary: 'List executions, newest first', load: () => import('./commands/ps.ts') },
  logs: { summary: 'Show what an execution wrote', load: () => import('./commands/logs.ts') },
  images: { summary: 'List, import, build and remove images', load: () => import('./commands/images.ts') },
  keys: { summary: 'List, add and remove API keys', load: () => import('./commands/keys.ts') },
  prewarm: { summary: 'Keep sandboxes ready', load: () => import('./commands/prewarm.ts') },
  pools: { summary: 'List the warm pools', load: () => import('./commands/pools.ts') },
  usage: { summary: 'Show what was used, by tenant and key', load: () => import('./commands/usage.ts') },
  doctor: {
    summary: 'Try every part of this host, and say what is missing and what to do',
    load: () => import('./commands/doctor.ts'),
  },
  setup: {
    summary: 'Make this host ready: packages, agent, launcher, base image',
    load: () => import('./commands/setup.ts'),
  },
  test: { summary: 'Set up what the tests need, and run them all', load: () => import('./commands/test.ts') },
  bench: { summary: 'Measure this host: run a suite of benchmarks', load: () => import('./commands/bench.ts') },
  completion: { summary: 'Write the completion script of a shell', load: () => import('./commands/completion.ts') },
} as const satisfies Record<string, Row>

export type CommandName = keyof typeof COMMANDS

export const isCommandName = (name: string): name is CommandName => Object.hasOwn(COMMANDS, name)

export const loadCommand = async (name: CommandName): Promise<CliCommand> => (await COMMANDS[name].load()).default
