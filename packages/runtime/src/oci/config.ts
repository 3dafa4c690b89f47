import type { SandboxConfig } from '../runtime.ts'
import {
  CORE_LIMIT_BYTES,
  MASKED_PATHS,
  OOM_SCORE_ADJ,
  READONLY_PATHS,
  SANDBOX_CAPABILITIES,
  SECCOMP_PROFILE,
} from '../sandbox-policy.ts'

/** Where the agent listens, seen from inside. */
const AGENT_SOCKET = '/.bramble/run/agent.sock'
/** Where programs in the sandbox send events to. */
const EVENTS_SOCKET = '/.bramble/run/events.sock'
export const IDS_PER_SANDBOX = 65_536
export const DEFAULT_HOSTNAME = 'bramble'

export interface ConfigContext {
  /** Directory of the root filesystem as the launcher mounts it. */
  rootfs: string
  /** Directory that becomes `/.bramble/run`. */
  run: string
  /** What the sandbox asked to have mounted is at this path and its number. */
  mounts: string
  cgroupPath: string
  uidBase: number
  swapAccounting: boolean
  maxOpenFiles: number
  /** Namespaces made ahead, of which the user namespace has the mapping of `uidBase`. Absent: new ones, without a link. */
  network?: { userNamespacePath: string; networkNamespacePath: string } | undefined
  /** The seccomp profile as the OCI runtime compiled it before, in base64; empty where that is not known. */
  seccompBpf: string
}

const FIXED_MOUNTS = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=1m'] },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=64m'],
  },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
]

const MIB = 1024 * 1024
const CPU_PERIOD_MICROS = 100_000
/** The kernel's least quota (`min_cfs_quota_period`). */
const MIN_CPU_QUOTA_MICROS = 1000

// The parts that never change are written as JSON once: the seccomp profile alone is several kilobytes.
const FIXED_LINUX = JSON.stringify({
  seccomp: SECCOMP_PROFILE,
  maskedPaths: MASKED_PATHS,
  readonlyPaths: READONLY_PATHS,
}).slice(1, -1)

const namespacesOf = ({ network }: ConfigContext): { type: string; path?: string }[] => [
  ...['pid', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
  { type: 'user', ...(network && { path: network.userNamespacePath }) },
  { type: 'network', ...(network && { path: network.networkNamespacePath }) },
]

/** The OCI configuration (runtime-spec config.json) of a sandbox whose only process is the agent. */
export const ociConfig = (config: SandboxConfig, context: ConfigContext): string => {
  const { resources } = config
  const ids = [{ containerID: 0, hostID: context.uidBase, size: IDS_PER_SANDBOX }]
  const memoryBytes = resources.memoryMb * MIB
  const linux = JSON.stringify({
    cgroupsPath: context.cgroupPath,
    namespaces: namespacesOf(context),
    uidMappings: ids,
    gidMappings: ids,
    resources: {
      devices: [{ allow: false, access: 'rwm' }],
      memory: { limit: memoryBytes, ...(context.swapAccounting && { swap: memoryBytes }) },
      cpu: {
        period: CPU_PERIOD_MICROS,
        quota: Math.max(MIN_CPU_QUOTA_MICROS, Math.round(resources.cpus * CPU_PERIOD_MICROS)),
      },
      pids: { limit: resources.pids },
    },
  }).slice(1, -1)
  const rest = JSON.stringify({
    ociVersion: '1.0.2',
    // crun(1): saves compiling the profile anew, 40% of a start. An OCI runtime that does not know it compiles.
    ...(context.seccompBpf !== '' && { annotations: { 'run.oci.seccomp_bpf_data': context.seccompBpf } }),
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ['/.bramble/agent', '--listen', AGENT_SOCKET, '--events', EVENTS_SOCKET, '--ready-fd', '3'],
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
      cwd: '/',
      capabilities: {
        bounding: SANDBOX_CAPABILITIES,
        effective: SANDBOX_CAPABILITIES,
        permitted: SANDBOX_CAPABILITIES,
      },
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: context.maxOpenFiles, hard: context.maxOpenFiles },
        { type: 'RLIMIT_CORE', soft: CORE_LIMIT_BYTES, hard: CORE_LIMIT_BYTES },
      ],
      noNewPrivileges: true,
      oomScoreAdj: OOM_SCORE_ADJ,
    },
    root: { path: context.rootfs },
    hostname: config.hostname ?? DEFAULT_HOSTNAME,
    mounts: [
      ...FIXED_MOUNTS,
      {
        destination: '/.bramble/run',
        type: 'bind',
        source: context.run,
        options: ['bind', 'nosuid', 'nodev', 'noexec'],
      },
      ...(config.mounts ?? []).map((mount, i) => ({
        destination: mount.path,
        type: 'bind',
        source: `${context.mounts}${i}`,
        options: ['bind', 'nosuid', 'nodev', ...(mount.kind === 'volume' && mount.readOnly ? ['ro'] : [])],
      })),
    ],
  }).slice(1, -1)
  return `{${rest},"linux":{${linux},${FIXED_LINUX}}}`
}
