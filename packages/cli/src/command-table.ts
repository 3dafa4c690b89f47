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
  start: {
    summary: 'Start an instance: a sandbox that stays; or start a stopped one again',
    load: () => import('./commands/start.ts'),
  },
  exec: { summary: 'Run a command in an instance', load: () => import('./commands/exec.ts') },
  shell: {
    summary: 'Open a terminal in an instance, or in a new one that is gone afterwards',
    load: () => import('./commands/shell.ts'),
  },
  cp: { summary: 'Copy files and trees into, out of, and between instances', load: () => import('./commands/cp.ts') },
  ports: {
    summary: 'List what listens in an instance, or forward ports of this host to it',
    load: () => import('./commands/ports.ts'),
  },
  expose: { summary: 'Give a port of an instance a URL', load: () => import('./commands/expose.ts') },
  ps: { summary: 'List instances, and executions that are under way', load: () => import('./commands/ps.ts') },
  logs: {
    summary: 'Show what an execution, a job, or the commands of an instance, wrote',
    load: () => import('./commands/logs.ts'),
  },
  top: { summary: 'Show what running instances use, as it changes', load: () => import('./commands/top.ts') },
  pause: {
    summary: 'Freeze instances: they use no processor until resumed',
    load: () => import('./commands/pause.ts'),
  },
  resume: { summary: 'Let paused instances go on', load: () => import('./commands/resume.ts') },
  snapshot: {
    summary: 'Take a snapshot of an instance; diff, restore, export, import and remove them',
    load: () => import('./commands/snapshot.ts'),
  },
  snapshots: {
    summary: 'List snapshots; the same commands as `snapshot`',
    load: () => import('./commands/snapshots.ts'),
  },
  branch: {
    summary: 'Make branches: instances that continue from another, from a snapshot, or from what an execution left',
    load: () => import('./commands/branch.ts'),
  },
  branches: {
    summary: 'Show what came from what: instances, their snapshots and branches, as a tree',
    load: () => import('./commands/branches.ts'),
  },
  fork: {
    summary: 'Run a command in a branch of an instance, a snapshot or an execution, and keep what it left',
    load: () => import('./commands/fork.ts'),
  },
  merge: { summary: 'Fold the files of branches into one snapshot', load: () => import('./commands/merge.ts') },
  stop: {
    summary: 'Stop instances: their processes end, their files are kept',
    load: () => import('./commands/stop.ts'),
  },
  extend: { summary: 'Move the time when instances expire', load: () => import('./commands/extend.ts') },
  rm: { summary: 'Delete instances, with their files', load: () => import('./commands/rm.ts') },
  submit: {
    summary: 'Submit a job to a network: several nodes run it, and what they agree on is its result',
    load: () => import('./commands/submit.ts'),
  },
  list: { summary: 'List the jobs of a network', load: () => import('./commands/list.ts') },
  get: {
    summary: 'Show a job: who ran it, when, who agreed, and why it waits',
    load: () => import('./commands/get.ts'),
  },
  nodes: {
    summary: 'List the nodes of a network; drain, resume, suspend and invite them',
    load: () => import('./commands/nodes.ts'),
  },
  stats: {
    summary: 'Show a network as a whole: jobs, nodes, what is verified a second, credits',
    load: () => import('./commands/stats.ts'),
  },
  volumes: { summary: 'List, create and remove volumes', load: () => import('./commands/volumes.ts') },
  'ssh-keys': {
    summary: 'List, add and remove the keys that open instances over SSH',
    load: () => import('./commands/ssh-keys.ts'),
  },
  store: {
    summary: 'Show what the store of blobs holds, and remove what nothing needs',
    load: () => import('./commands/store.ts'),
  },
  cache: {
    summary: 'Show what the cache of results holds and answered, or forget it',
    load: () => import('./commands/cache.ts'),
  },
  blob: {
    summary: 'Put and get bytes by their SHA-256, for the files of commands and from their outputs',
    load: () => import('./commands/blob.ts'),
  },
  images: { summary: 'List, import, build and remove images', load: () => import('./commands/images.ts') },
  keys: { summary: 'List, add and remove API keys', load: () => import('./commands/keys.ts') },
  prewarm: { summary: 'Keep sandboxes ready', load: () => import('./commands/prewarm.ts') },
  pools: { summary: 'List the warm pools', load: () => import('./commands/pools.ts') },
  usage: { summary: 'Show what was used, by tenant and key', load: () => import('./commands/usage.ts') },
  coordinator: {
    summary: 'Run a coordinator: it takes jobs, places them on nodes, and verifies what they say',
    load: () => import('./commands/coordinator.ts'),
  },
  worker: {
    summary: 'Make this host a node of a network: it runs jobs, and signs what came out',
    load: () => import('./commands/worker.ts'),
  },
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
