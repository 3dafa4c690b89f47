import { existsSync, globSync } from 'node:fs'
import { isStaticElf } from './is-static-elf.ts'
import { findCommand } from './run-command.ts'

export type PackageManager = 'apt' | 'dnf' | 'apk'

/** Something of the host that Bramble uses and that a package of the host brings. */
export interface HostPart {
  readonly name: string
  /** What it is for, in a few words. */
  readonly use: string
  /** Only the tests need it. */
  readonly test?: true
  readonly found: () => boolean
  /** Names of packages by package manager, the best first; undefined where none is known. */
  readonly packages: Readonly<Partial<Record<PackageManager, readonly string[]>>>
}

const command =
  (...names: string[]) =>
  (): boolean =>
    names.some((name) => findCommand(name) !== undefined)
const file =
  (...patterns: string[]) =>
  (): boolean =>
    patterns.some((pattern) => (pattern.includes('*') ? globSync(pattern).length > 0 : existsSync(pattern)))
const same = (name: string): HostPart['packages'] => ({ apt: [name], dnf: [name], apk: [name] })

/** A busybox that runs in an empty root filesystem. */
export const staticBusybox = (): string | undefined =>
  ['busybox', 'busybox.static'].flatMap((name) => findCommand(name) ?? []).find((path) => isStaticElf(path))

/** Every part, in the order in which they are shown. */
export const HOST_PARTS: readonly HostPart[] = [
  { name: 'crun', use: 'makes sandboxes, fast', found: command('crun'), packages: same('crun') },
  { name: 'runc', use: 'makes sandboxes', found: command('runc'), packages: same('runc') },
  { name: 'skopeo', use: 'copies images from registries', found: command('skopeo'), packages: same('skopeo') },
  {
    name: 'umoci',
    use: 'unpacks OCI images',
    found: command('umoci'),
    packages: { apt: ['umoci'], dnf: ['umoci'], apk: ['umoci'] },
  },
  {
    name: 'busybox-static',
    use: 'the base image',
    found: () => staticBusybox() !== undefined,
    packages: { apt: ['busybox-static'], dnf: ['busybox'], apk: ['busybox-static'] },
  },
  { name: 'gcc', use: 'builds the agent', found: command('gcc', 'cc'), packages: same('gcc') },
  {
    name: 'libc6-dev',
    use: 'builds the agent',
    found: file('/usr/lib/*/libc.a', '/usr/lib/libc.a', '/usr/lib64/libc.a'),
    packages: { apt: ['libc6-dev'], dnf: ['glibc-static'], apk: ['musl-dev'] },
  },
  {
    name: 'linux-libc-dev',
    use: 'builds the agent',
    found: file('/usr/include/linux/types.h'),
    packages: { apt: ['linux-libc-dev'], dnf: ['kernel-headers'], apk: ['linux-headers'] },
  },
  { name: 'make', use: 'builds the agent', found: command('make'), packages: same('make') },
  {
    name: 'btrfs-progs',
    use: "the sandboxes' disk quota",
    found: command('mkfs.btrfs'),
    packages: same('btrfs-progs'),
  },
  { name: 'util-linux', use: 'namespaces', found: command('unshare'), packages: same('util-linux') },
  {
    name: 'mount',
    use: 'file systems, loop devices',
    found: command('losetup'),
    packages: { apt: ['mount'], dnf: ['util-linux'], apk: ['losetup'] },
  },
  { name: 'mmdebstrap', use: 'builds Debian images', found: command('mmdebstrap'), packages: { apt: ['mmdebstrap'] } },
  {
    name: 'ca-certificates',
    use: 'registries over TLS',
    found: file('/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt'),
    packages: same('ca-certificates'),
  },
  {
    name: 'iproute2',
    use: 'networks of sandboxes',
    found: command('ip'),
    packages: { apt: ['iproute2'], dnf: ['iproute'], apk: ['iproute2'] },
  },
  { name: 'nftables', use: 'networks of sandboxes', found: command('nft'), packages: same('nftables') },
  { name: 'tar', use: 'reads root filesystems', found: command('tar'), packages: same('tar') },
  { name: 'zstd', use: 'reads packed images', found: command('zstd'), packages: same('zstd') },
  {
    name: 'xz-utils',
    use: 'reads packed images',
    found: command('xz'),
    packages: { apt: ['xz-utils'], dnf: ['xz'], apk: ['xz'] },
  },
  {
    name: 'docker.io',
    use: 'the docker driver and the comparison in the bench',
    test: true,
    found: command('dockerd'),
    packages: { apt: ['docker.io'], dnf: ['moby-engine'], apk: ['docker'] },
  },
  {
    name: 'docker-cli',
    use: 'the comparison in the bench',
    test: true,
    found: command('docker'),
    packages: { apt: ['docker-cli', 'docker.io'], dnf: ['docker-cli'], apk: ['docker-cli'] },
  },
  {
    name: 'docker-registry',
    use: 'a registry on loopback to pull from',
    test: true,
    found: command('docker-registry', 'registry'),
    packages: { apt: ['docker-registry'], dnf: ['docker-distribution'], apk: ['docker-registry'] },
  },
  { name: 'clang', use: 'fuzzes the agent', test: true, found: command('clang'), packages: same('clang') },
  {
    name: 'libclang-rt-dev',
    use: 'fuzzes the agent under sanitizers',
    test: true,
    found: file(
      '/usr/lib/llvm-*/lib/clang/*/lib/*/libclang_rt.fuzzer*.a',
      '/usr/lib*/clang/*/lib/*/*clang_rt.fuzzer*.a',
    ),
    // `*` is the version of the clang that apt would install.
    packages: { apt: ['libclang-rt-*-dev', 'libclang-common-*-dev'], dnf: ['compiler-rt'], apk: ['compiler-rt'] },
  },
  {
    name: 'openssh-client',
    use: 'tries SSH with the client that people have',
    test: true,
    found: () => ['ssh', 'scp', 'sftp', 'ssh-keygen'].every((name) => findCommand(name) !== undefined),
    packages: { apt: ['openssh-client'], dnf: ['openssh-clients'], apk: ['openssh-client'] },
  },
  { name: 'curl', use: 'tries forwarded ports', test: true, found: command('curl'), packages: same('curl') },
  {
    name: 'python3',
    use: 'holds the terminal of a client',
    test: true,
    found: command('python3'),
    packages: same('python3'),
  },
  {
    name: 'python3-venv',
    use: 'keeps the S3 server of the tests apart',
    test: true,
    found: file('/usr/lib/python3*/ensurepip/__init__.py', '/usr/lib64/python3*/ensurepip/__init__.py'),
    packages: { apt: ['python3-venv'], dnf: ['python3'], apk: ['python3'] },
  },
  {
    name: 'redis-server',
    use: 'tries what nodes and coordinators share by Redis',
    test: true,
    found: command('redis-server'),
    packages: { apt: ['redis-server'], dnf: ['redis'], apk: ['redis'] },
  },
  {
    name: 'postgresql',
    use: 'tries the store of a cluster of coordinators, in directories of the tests',
    test: true,
    found: () => command('postgres')() || file('/usr/lib/postgresql/*/bin/postgres')(),
    packages: { apt: ['postgresql'], dnf: ['postgresql-server'], apk: ['postgresql'] },
  },
  {
    name: 'restic',
    use: 'the comparison in the bench of snapshots',
    test: true,
    found: command('restic'),
    packages: same('restic'),
  },
  { name: 'git', use: 'lists the files of the checkout', test: true, found: command('git'), packages: same('git') },
]

export const missingParts = (options: { test: boolean }): HostPart[] =>
  HOST_PARTS.filter((part) => (options.test || !part.test) && !part.found())

/** The command a person would type to bring `parts`, for one package manager. */
export const installCommand = (manager: PackageManager, parts: readonly HostPart[]): string => {
  const names = new Set(parts.map((part) => part.packages[manager]?.[0] ?? `<a package with ${part.name}>`))
  const verb = { apt: 'apt-get install', dnf: 'dnf install', apk: 'apk add' }[manager]
  return `${verb} ${[...names].join(' ').replace('libclang-rt-*-dev', "'libclang-rt-*-dev'")}`
}
