import { posix } from 'node:path'
import type { ExecutionSpec } from '@bramble/protocol'
import type { ExecRequest, LocalImage } from '@bramble/runtime'

/**
 * What every command finds in its environment unless its image or spec says otherwise. Time zone, language and the seed
 * of Python's string hashes are fixed, so that equal commands have equal results on every node.
 */
const DEFAULT_ENV: Readonly<Record<string, string>> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
  TZ: 'UTC',
  PYTHONHASHSEED: '0',
}

/** The host name of every sandbox, for the same reason. */
export const HOSTNAME = 'sandbox'

/** By the name alone: the sandbox's passwd file is the agent's to read, and it is not trusted with our answer. */
export const homeOf = (user: string): string => {
  if (user === 'root' || user === '0') return '/root'
  return /^\d+$/.test(user) ? '/' : `/home/${user}`
}

export interface Place {
  readonly user: string
  /** Absolute. Relative paths of the spec begin here. */
  readonly workdir: string
}

/** Who a command is, and where: by its spec, else by its image. */
export const placeOf = (spec: ExecutionSpec, image: LocalImage): Place => ({
  user: spec.user ?? (image.config.user || 'root'),
  workdir: posix.resolve('/', image.config.workdir, spec.workdir ?? ''),
})

/** What a state that is continued says of its commands. */
export type CommandDefaults = Partial<Pick<ExecutionSpec, 'env' | 'user' | 'workdir'>>

/** The spec with what it does not say itself. */
export const specWith = (spec: ExecutionSpec, defaults: CommandDefaults | undefined): ExecutionSpec => {
  if (!defaults) return spec
  const { env, user, workdir } = defaults
  return {
    ...spec,
    env: { ...env, ...spec.env },
    ...(spec.user === undefined && user !== undefined && { user }),
    ...(workdir !== undefined && { workdir: posix.resolve('/', workdir, spec.workdir ?? '') }),
  }
}

export const argvOf = (command: string | string[]): string[] =>
  typeof command === 'string' ? ['/bin/sh', '-c', command] : command

/** What a command of that user finds in its environment before anyone says more. */
export const environmentOf = (user: string, image: LocalImage): Record<string, string> => {
  const name = user.split(':', 1)[0] ?? user
  return { ...DEFAULT_ENV, HOME: homeOf(name), USER: name, ...image.config.env }
}

/** The agent's request for the spec's command in that image. */
export const execRequestOf = (spec: ExecutionSpec, image: LocalImage, { user, workdir }: Place): ExecRequest => ({
  argv: argvOf(spec.command),
  env: { ...environmentOf(user, image), ...spec.env },
  workdir,
  user,
  stdin: spec.stdin === undefined ? 'none' : 'pipe',
})

export const stdinBytes = (stdin: NonNullable<ExecutionSpec['stdin']>): Buffer =>
  typeof stdin === 'string' ? Buffer.from(stdin) : Buffer.from(stdin.base64, 'base64')
