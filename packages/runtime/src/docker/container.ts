import type Docker from 'dockerode'
import type { SandboxConfig } from '../runtime.ts'
import {
  CORE_LIMIT_BYTES,
  MASKED_PATHS,
  OOM_SCORE_ADJ,
  READONLY_PATHS,
  SANDBOX_CAPABILITIES,
  SECCOMP_PROFILE,
} from '../sandbox-policy.ts'

export const NODE_LABEL = 'dev.bramble.node'
export const SANDBOX_LABEL = 'dev.bramble.sandbox'
const DEFAULT_HOSTNAME = 'sandbox'
const MIB = 1024 * 1024
/** The engine refuses less. */
const MIN_NANO_CPUS = 10_000_000
const SECCOMP = JSON.stringify(SECCOMP_PROFILE)

/** The container of a sandbox: its only process is the agent, which speaks on the attached standard streams. */
export const containerOptions = (
  config: Pick<SandboxConfig, 'id' | 'resources' | 'hostname'>,
  context: { image: string; node: string; diskQuota: boolean },
): Docker.ContainerCreateOptions => {
  const { cpus, memoryMb, pids, diskMb } = config.resources
  return {
    name: `bramble-${config.id}`,
    Image: context.image,
    Entrypoint: ['/.bramble/agent', '--stdio'],
    Cmd: [],
    User: '0:0',
    WorkingDir: '/',
    Env: [],
    Hostname: config.hostname ?? DEFAULT_HOSTNAME,
    Labels: { [NODE_LABEL]: context.node, [SANDBOX_LABEL]: config.id },
    AttachStdin: true,
    AttachStdout: true,
    AttachStderr: true,
    OpenStdin: true,
    // The agent's stream ends with our connection: a node that dies takes its sandboxes along.
    StdinOnce: true,
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
      Memory: memoryMb * MIB,
      MemorySwap: memoryMb * MIB,
      NanoCpus: Math.max(MIN_NANO_CPUS, Math.round(cpus * 1e9)),
      PidsLimit: pids,
      OomScoreAdj: OOM_SCORE_ADJ,
      Ulimits: [{ Name: 'core', Soft: CORE_LIMIT_BYTES, Hard: CORE_LIMIT_BYTES }],
      LogConfig: { Type: 'none', Config: {} },
      RestartPolicy: { Name: 'no' },
      AutoRemove: false,
      ...(context.diskQuota && { StorageOpt: { size: `${diskMb}M` } }),
    },
  }
}
