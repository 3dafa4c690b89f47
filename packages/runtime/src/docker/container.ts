import type { SandboxId } from '@bramble/protocol'
import type Docker from 'dockerode'
import type { SandboxConfig, SandboxResources } from '../runtime.ts'
import {
  CORE_LIMIT_BYTES,
  MASKED_PATHS,
  OOM_SCORE_ADJ,
  READONLY_PATHS,
  SANDBOX_CAPABILITIES,
  SECCOMP_PROFILE,
} from '../sandbox-policy.ts'

export const NODE_LABEL = 'dev.bramble.node'
/** Of a kept sandbox: the name of the layer that the container is. */
export const LAYER_LABEL = 'dev.bramble.layer'
/** Of a container that never runs: files are read by it. */
export const READER_LABEL = 'dev.bramble.reader'
/** Where the agent of a kept sandbox listens. */
export const AGENT_SOCKET = '/.bramble/run/agent.sock'
const EVENTS_SOCKET = '/.bramble/run/events.sock'
const NAME_PREFIX = 'bramble-'
const DEFAULT_HOSTNAME = 'sandbox'
const MIB = 1024 * 1024
/** The engine refuses less. */
const MIN_NANO_CPUS = 10_000_000
const ATTACHED = ['--stdio']
const LISTENING = ['--listen', AGENT_SOCKET, '--events', EVENTS_SOCKET, '--relay']
const SECCOMP = JSON.stringify(SECCOMP_PROFILE)

/** A container's name is that of the sandbox which runs in it, or ran last. */
export const nameOf = (id: SandboxId): string => `${NAME_PREFIX}${id}`
export const idOf = (names: readonly string[]): SandboxId =>
  (names[0] ?? '').replace(`/${NAME_PREFIX}`, '') as SandboxId

/** The part that can be changed while a container is there. */
export const limitsOf = ({ cpus, memoryMb, pids }: SandboxResources) => ({
  Memory: memoryMb * MIB,
  MemorySwap: memoryMb * MIB,
  NanoCpus: Math.max(MIN_NANO_CPUS, Math.round(cpus * 1e9)),
  PidsLimit: pids,
})

/**
 * The container of a sandbox: its first process is the agent. It speaks on the attached standard streams; that of a kept one
 * listens on a socket inside, so that it goes on without us.
 */
export const containerOptions = (
  config: Pick<SandboxConfig, 'id' | 'resources' | 'hostname' | 'keep'>,
  context: { image: string; node: string; diskQuota: boolean },
): Docker.ContainerCreateOptions => {
  const { resources, keep } = config
  const attached = keep === undefined
  return {
    name: nameOf(config.id),
    Image: context.image,
    Entrypoint: ['/.bramble/agent', ...(attached ? ATTACHED : LISTENING)],
    Cmd: [],
    User: '0:0',
    WorkingDir: '/',
    Env: [],
    Hostname: config.hostname ?? DEFAULT_HOSTNAME,
    // An image that was a container has that one's labels.
    Labels: { [NODE_LABEL]: context.node, [LAYER_LABEL]: keep?.layer ?? '' },
    AttachStdin: attached,
    AttachStdout: attached,
    AttachStderr: attached,
    OpenStdin: attached,
    // The agent's stream ends with our connection: a node that dies takes its sandboxes along.
    StdinOnce: attached,
    Tty: false,
    NetworkDisabled: true,
    HostConfig: {
      NetworkMode: 'none',
      IpcMode: 'private',
      CapDrop: ['ALL'],
      CapAdd: SANDBOX_CAPABILITIES.map((name) => name.replace(/^CAP_/, '')),
      SecurityOpt: ['no-new-privileges', `seccomp=${SECCOMP}`],
      MaskedPaths: [...MASKED_PATHS],
      ReadonlyPaths: [...READONLY_PATHS],
      ...limitsOf(resources),
      OomScoreAdj: OOM_SCORE_ADJ,
      Ulimits: [{ Name: 'core', Soft: CORE_LIMIT_BYTES, Hard: CORE_LIMIT_BYTES }],
      // Its sockets are gone with its processes, and are not in the layer.
      ...(keep && { Tmpfs: { '/.bramble/run': 'rw,noexec,nosuid,nodev,mode=711,size=64k,nr_inodes=16' } }),
      LogConfig: { Type: 'none', Config: {} },
      RestartPolicy: { Name: 'no' },
      AutoRemove: false,
      ...(context.diskQuota && { StorageOpt: { size: `${resources.diskMb}M` } }),
    },
  }
}
