import { HOST_PARTS, type HostPart, installCommand } from '../setup/host-parts.ts'
import { findCommand, runCommand } from '../setup/run-command.ts'
import type { Part, PartReport } from './part.ts'

/** How each command is asked for its version; those that have none to give are only found. */
const VERSIONS: Readonly<Record<string, readonly string[]>> = {
  crun: ['crun', '--version'],
  runc: ['runc', '--version'],
  skopeo: ['skopeo', '--version'],
  umoci: ['umoci', '--version'],
  'busybox-static': ['busybox', 'true'],
  gcc: ['cc', '--version'],
  make: ['make', '--version'],
  'btrfs-progs': ['mkfs.btrfs', '--version'],
  'util-linux': ['unshare', '--version'],
  mount: ['losetup', '--version'],
  mmdebstrap: ['mmdebstrap', '--version'],
  iproute2: ['ip', '-V'],
  nftables: ['nft', '--version'],
  tar: ['tar', '--version'],
  zstd: ['zstd', '--version'],
  'xz-utils': ['xz', '--version'],
  'docker.io': ['dockerd', '--version'],
  'docker-cli': ['docker', '--version'],
  'docker-registry': ['docker-registry', '--version'],
  clang: ['clang', '--version'],
  git: ['git', '--version'],
}

/** The packages of the host that Bramble uses: found, and started once. */
export const toolParts = (options: { test: boolean }): Part[] =>
  HOST_PARTS.filter((part) => options.test || !part.test).map((part) => ({
    group: 'packages',
    name: part.name,
    examine: (signal) => examineTool(part, signal),
  }))

const examineTool = async (part: HostPart, signal: AbortSignal): Promise<Omit<PartReport, 'group' | 'name'>> => {
  if (!part.found())
    return { state: 'missing', detail: part.use, hint: `bramble setup, or: ${installCommand('apt', [part])}` }
  const [name, ...args] = VERSIONS[part.name] ?? []
  if (name === undefined) return { state: 'works', detail: part.use }
  const { code, lines } = await runCommand([findCommand(name) ?? name, ...args], { signal })
  const version = lines.map((line) => /\d+(\.\d+)+/.exec(line)?.[0]).find((found) => found !== undefined)
  if (code !== 0) return { state: 'fails', detail: `${[name, ...args].join(' ')} ended with ${code}: ${lines.at(-1)}` }
  return { state: 'works', detail: part.use, ...(version !== undefined && { version }) }
}
