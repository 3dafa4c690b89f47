import { posix } from 'node:path'
import { BrambleError, type ExecRequestBody, type InstanceSpec, LIMITS, type StreamCommand } from '@bramble/protocol'
import type { ExecRequest, LocalImage } from '@bramble/runtime'
import { argvOf, environmentOf } from '../command.ts'
import type { InstanceLease } from './instances.ts'

const TERMINAL = 'xterm-256color'

/** What the commands of an instance have where they do not say. */
export const defaultsOf = (spec: InstanceSpec, image: LocalImage): InstanceLease['defaults'] => {
  const user = spec.user ?? (image.config.user || 'root')
  return {
    env: { ...environmentOf(user, image), ...spec.env },
    user,
    workdir: posix.resolve('/', image.config.workdir, spec.workdir ?? ''),
  }
}

type Command = Pick<ExecRequestBody, 'command' | 'env' | 'workdir' | 'user'>

const assertFits = (argv: readonly string[], env: Readonly<Record<string, string>>): void => {
  let chars = 0
  for (const word of argv) chars += word.length + 1
  for (const name in env) chars += name.length + (env[name]?.length ?? 0) + 2
  const max = LIMITS.maxArgumentsAndEnvBytes.value
  // UTF-16 units undercount what is not ASCII; count exactly only when that could matter.
  if (chars * 3 <= max || Buffer.byteLength(JSON.stringify([argv, env])) <= max) return
  throw new BrambleError('invalid_request', { detail: `command and env are more than ${max} bytes together` })
}

/** The environment of the image, then of the instance, then of the command; a relative directory begins at the default one. */
export const requestFor = (
  spec: InstanceSpec,
  image: LocalImage,
  defaults: InstanceLease['defaults'],
  command: Command,
  stdin: 'none' | 'pipe',
): ExecRequest => {
  const argv = argvOf(command.command)
  const { user = defaults.user } = command
  const inherited = user === defaults.user ? defaults.env : { ...environmentOf(user, image), ...spec.env }
  const env = { ...inherited, ...command.env }
  assertFits(argv, env)
  const workdir = command.workdir === undefined ? defaults.workdir : posix.resolve(defaults.workdir, command.workdir)
  return { argv, env, workdir, user, stdin }
}

/** A named command of the stream. */
export const streamRequestFor = (
  spec: InstanceSpec,
  image: LocalImage,
  defaults: InstanceLease['defaults'],
  command: Extract<StreamCommand, { type: 'exec' }>,
): ExecRequest => {
  const request = requestFor(spec, image, defaults, command, command.stdin ? 'pipe' : 'none')
  if (!command.pty) return request
  return { ...request, env: { TERM: TERMINAL, ...request.env }, pty: command.pty }
}
