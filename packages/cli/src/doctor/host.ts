import { existsSync, readFileSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import { availableParallelism, release, totalmem } from 'node:os'
import { dirname } from 'node:path'
import { runCommand } from '../setup/run-command.ts'
import type { Part } from './part.ts'

const GIB = 1024 ** 3
const minFreeDiskBytes = 2 * GIB
const minMemoryBytes = GIB
const group = 'host'

/** Tries something of the kernel in namespaces of its own, so that nothing of the host changes. */
const tried = (name: string, script: string, hint: string, unshare: readonly string[] = ['--mount']): Part => ({
  group,
  name,
  examine: async (signal) => {
    const { code, lines } = await runCommand(['unshare', ...unshare, 'sh', '-ec', script], { signal })
    if (code === 0) return { state: 'works', detail: 'tried' }
    return { state: 'fails', detail: lines.at(-1) ?? `exit code ${code}`, hint }
  },
})

const TMPFS = 'mount -t tmpfs tmpfs /mnt; cd /mnt; '

const node: Part = {
  group,
  name: 'node',
  examine: async () => ({ state: 'works', version: process.versions.node, detail: process.execPath }),
}

const kernel: Part = {
  group,
  name: 'kernel',
  examine: async () => {
    const [major = 0, minor = 0] = release().split('.').map(Number)
    const version = release()
    const cpus = `${availableParallelism()} CPUs`
    if (process.platform !== 'linux')
      return {
        state: 'limited',
        version,
        detail: `${process.platform}, ${cpus}`,
        hint: 'Sandboxes come from Docker here.',
      }
    if (major > 5 || (major === 5 && minor >= 19)) return { state: 'works', version, detail: cpus }
    return {
      state: 'fails',
      version,
      detail: 'older than 5.19',
      hint: 'The oci runtime needs id-mapped overlay layers.',
    }
  },
}

const cgroups: Part = {
  group,
  name: 'cgroups',
  examine: async () => {
    const mounts = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
    const v2 = mounts.find(([, , type]) => type === 'cgroup2')
    const v1 = mounts.filter(([, , type]) => type === 'cgroup')
    if (!v2 && v1.length === 0)
      return { state: 'missing', detail: 'none is mounted', hint: 'mount -t cgroup2 none /sys/fs/cgroup' }
    const version = v1.length === 0 ? '2' : v2 ? 'hybrid' : '1'
    const controllers =
      v1.length === 0
        ? readFileSync(`${v2?.[1]}/cgroup.controllers`, 'utf8').trim().split(' ')
        : v1.flatMap(([, , , options = '']) => options.split(','))
    const wanted = ['cpu', 'memory', 'pids']
    const lacking = wanted.filter((name) => !controllers.includes(name))
    if (lacking.length === 0) return { state: 'works', version, detail: wanted.join(', ') }
    return {
      state: 'limited',
      version,
      detail: `without ${lacking.join(', ')}`,
      hint: 'These limits are not enforced.',
    }
  },
}

const seccomp: Part = {
  group,
  name: 'seccomp',
  examine: async () => {
    const file = '/proc/sys/kernel/seccomp/actions_avail'
    if (!existsSync(file))
      return { state: 'missing', detail: 'the kernel has none', hint: 'Use a kernel with seccomp.' }
    const actions = readFileSync(file, 'utf8').trim().split(' ')
    return { state: 'works', detail: `${actions.length} actions` }
  },
}

const memory: Part = {
  group,
  name: 'memory',
  examine: async () => {
    const available = Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) * 1024
    const detail = `${(available / GIB).toFixed(1)} of ${(totalmem() / GIB).toFixed(1)} GiB available`
    if (available >= minMemoryBytes) return { state: 'works', detail }
    return { state: 'limited', detail, hint: 'Sandboxes get 512 MiB each unless they ask for less.' }
  },
}

const disk = (dataDirectory: string): Part => ({
  group,
  name: 'disk',
  examine: async () => {
    let folder = dataDirectory
    while (!existsSync(folder)) folder = dirname(folder)
    const { bavail, bsize } = await statfs(folder)
    const detail = `${((bavail * bsize) / GIB).toFixed(1)} GiB free for ${dataDirectory}`
    if (bavail * bsize >= minFreeDiskBytes) return { state: 'works', detail }
    return { state: 'limited', detail, hint: 'Images and sandboxes need more: free some, or set BRAMBLE_DATA_DIR.' }
  },
})

interface Address {
  readonly host: string
  readonly port: number
}

const port = (
  name: string,
  address: Address,
  busy: { readonly state: 'limited' | 'fails'; readonly hint: string },
  listening: string | undefined,
): Part => ({
  group,
  name,
  examine: async () => {
    if (listening !== undefined) return { state: 'works', detail: `the node listens on ${listening}` }
    const server = createServer()
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    server.once('error', reject).listen(address.port, address.host, resolve)
    try {
      await promise
      return { state: 'works', detail: `${address.host}:${address.port} is free` }
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      return { ...busy, detail: `${address.host}:${address.port}: ${code}` }
    } finally {
      server.close()
    }
  },
})

export interface HostOptions {
  readonly dataDirectory: string
  readonly address: Address
  /** `off`: the node is to have no SSH. */
  readonly sshPort: number | 'off'
  readonly running: { url: string; pid: number; sshPort?: number } | undefined
}

/** The kernel and the machine: each thing of the kernel is used once, in namespaces that end with the trial. */
export const hostParts = ({ dataDirectory, address, sshPort, running }: HostOptions): Part[] => [
  node,
  kernel,
  cgroups,
  tried('user namespaces', 'test "$(id -u)" = 0', 'See /proc/sys/user/max_user_namespaces.', [
    '--user',
    '--map-root-user',
  ]),
  seccomp,
  tried(
    'overlay',
    `${TMPFS} mkdir l u w m; echo a > l/a; mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m; test -f m/a; echo b > m/b; test -f u/b`,
    'The oci runtime needs overlayfs and root.',
  ),
  tried(
    'btrfs disk',
    `${TMPFS} truncate -s 128M d; mkfs.btrfs -q d; mkdir m; mount -o loop d m; btrfs -q subvolume create m/s; umount m`,
    'Without btrfs on a loop device, sandboxes share memory for their disks, and before Linux 6.3 there are none: install btrfs-progs.',
  ),
  memory,
  disk(dataDirectory),
  port(
    'port',
    address,
    { state: 'fails', hint: 'Use another: bramble up --port' },
    running && `${running.url} (pid ${running.pid})`,
  ),
  ...sshParts({ address, sshPort, running }),
]

/** Where 2222 is taken, a node that was not told which port to take takes a free one. */
const sshParts = ({ address, sshPort, running }: Pick<HostOptions, 'address' | 'sshPort' | 'running'>): Part[] => {
  const ofNode = running?.sshPort
  if (sshPort === 'off' || (running && ofNode === undefined)) return []
  const busy = { state: 'limited', hint: 'The node takes a free port; or choose: bramble up --ssh-port' } as const
  return [
    port('ssh port', { host: address.host, port: sshPort }, busy, ofNode === undefined ? undefined : `port ${ofNode}`),
  ]
}
