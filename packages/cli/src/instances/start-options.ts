import type { InstanceSpecInput } from '@bramble/sdk'
import { type Command, InvalidArgumentError } from 'commander'
import { defined } from '../defined.ts'
import { collect, collectLabels, collectPairs, parseDuration } from '../parse-value.ts'
import { addSandboxOptions } from '../sandbox-options.ts'

/** The options of `bramble start`, and of a `bramble shell` that starts one, that describe the instance. */
export interface StartOptions {
  readonly image?: string
  readonly name?: string
  readonly cpus?: number
  readonly memory?: number
  readonly disk?: number
  readonly pids?: number
  readonly ttl?: number
  readonly idleTtl?: number
  readonly idleAction?: string
  readonly autoResume?: boolean
  readonly env?: Record<string, string>
  readonly workdir?: string
  readonly user?: string
  readonly network?: string
  readonly allow?: string[]
  readonly volume?: Volume[]
  readonly cache?: string[]
  readonly label?: Record<string, string>
  readonly runtime?: string
  readonly command?: string
}

type Volume = NonNullable<InstanceSpecInput['volumes']>[number]

const collectVolumes = (text: string, before: Volume[] = []): Volume[] => {
  const match = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(text)
  if (match === null) throw new InvalidArgumentError('Not NAME:/PATH, or NAME:/PATH:ro.')
  const [, name = '', path = '', how] = match
  return [...before, { name, path, readOnly: how === 'ro' }]
}

export const addStartOptions = (command: Command): Command =>
  addSandboxOptions(command)
    .option('-e, --env <name=value>', 'of all its commands; may be given many times', collectPairs)
    .option('-w, --workdir <path>', 'the directory that its commands run in')
    .option('-u, --user <user>', 'user, uid, user:group or uid:gid')
    .option('--network <kind>', 'none or egress (default: none)')
    .option('--allow <host>', 'a network to only these: a host name or a CIDR; may be given many times', collect)
    .option('--volume <name:path[:ro]>', 'mount a volume; may be given many times', collectVolumes)
    .option('--cache <tool>', 'share downloads of npm, pip, cargo, go or apt; may be given many times', collect)
    .option('-l, --label <name=value>', 'a label to find it by; may be given many times', collectLabels)
    .option('--runtime <name>', 'auto (default), oci, docker')

/** How long it lives, and what runs in it from the start. */
export const addLifeOptions = (command: Command): Command =>
  command
    .option('--name <name>', 'a name of your own, to use instead of its id')
    .option('--ttl <time>', 'how long it lives: 30m, 2h, 7d (default: until it is deleted)', parseDuration)
    .option('--idle-ttl <time>', 'how long nobody may use it: 30m, 2h', parseDuration)
    .option('--idle-action <what>', 'then: pause (default), stop or delete')
    .option('--no-auto-resume', 'when it is paused, a request does not resume it')
    .option('--command <line>', 'run this in the background whenever it starts, by `sh -c`')

export const startSpecOf = (options: StartOptions): InstanceSpecInput => {
  const { image, name, env, workdir, user, allow, runtime, command, cache: caches } = options
  const resources = { cpus: options.cpus, memoryMb: options.memory, diskMb: options.disk, pids: options.pids }
  const spec = {
    ...defined({ image, name, env, workdir, user, runtime, command, caches }),
    ...defined({ ttlMs: options.ttl, idleTtlMs: options.idleTtl, idleAction: options.idleAction }),
    ...defined({ network: allow === undefined ? options.network : { allow }, volumes: options.volume }),
    ...defined({ labels: options.label, autoResume: options.autoResume }),
    resources: defined(resources),
  }
  // Enumerations arrive as text: the node parses the spec and names the field that cannot be.
  return spec as InstanceSpecInput
}
