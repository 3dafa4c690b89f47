import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { release } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { MemoryRequirements } from '@bramble/protocol'

/** CRIU (criu(8)), which turns processes into files and back. */
export interface Criu {
  /** Its command and first arguments. */
  readonly command: readonly string[]
  readonly version: string
  /** What memory that is saved here needs of where it is restored. */
  readonly requirements: MemoryRequirements
}

/** Older ones fail on kernels since 6.1 (the vdso); those before 4.2 on kernels since 6.16 (options of sockets). */
const MIN_VERSION = 4
const MIN_VERSION_BY_KERNEL = { kernel: 6.016, version: 4.002 }
const TIMEOUT_MS = 20_000
/** Debian's name of the architecture, of its folder of libraries, and of the dynamic loader there. */
const ARCHITECTURES: Readonly<Record<string, readonly [debian: string, folder: string, loader: string]>> = {
  x64: ['amd64', 'x86_64-linux-gnu', 'ld-linux-x86-64.so.2'],
  arm64: ['arm64', 'aarch64-linux-gnu', 'ld-linux-aarch64.so.1'],
}

/**
 * Where `bramble setup` unpacks a CRIU of Debian with the libraries it needs, for hosts whose own is too old or not there.
 * Undefined: for this architecture there is none.
 */
export const criuPrefix = (): { directory: string; debianArchitecture: string; command: string[] } | undefined => {
  const names = ARCHITECTURES[process.arch]
  if (names === undefined) return undefined
  const [debianArchitecture, folder, loader] = names
  const directory = fileURLToPath(new URL('../../../../.tools/criu', import.meta.url))
  const libraries = `${directory}/usr/lib/${folder}`
  const command = [`${libraries}/${loader}`, '--library-path', libraries, `${directory}/usr/sbin/criu`]
  return { directory, debianArchitecture, command }
}

const SYSTEM = ['/usr/sbin/criu', '/usr/local/sbin/criu', '/usr/bin/criu', '/usr/local/bin/criu']

const candidates = (): string[][] =>
  [criuPrefix()?.command ?? ['/'], ...SYSTEM.map((path) => [path])].filter((words) => existsSync(words.at(-1) ?? ''))

/** `4.2.1` as 4.002: major and minor, to compare. */
const numberOf = (version: string): number => {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10) || 0)
  return major + minor / 1000
}

const run = async ([file = '', ...words]: readonly string[], ...args: string[]): Promise<string> => {
  const { stdout, stderr } = await promisify(execFile)(file, [...words, ...args], { timeout: TIMEOUT_MS })
  return stdout + stderr
}

/** The first CRIU of this host that is new enough and says that the kernel has what it needs; else why there is none. */
export const findCriu = async (): Promise<Criu | { reason: string }> => {
  const reasons: string[] = []
  for (const command of candidates()) {
    const name = command.at(-1)
    try {
      const version = /Version: (\S+)/.exec(await run(command, '--version'))?.[1] ?? ''
      const wanted = numberOf(release()) >= MIN_VERSION_BY_KERNEL.kernel ? MIN_VERSION_BY_KERNEL.version : MIN_VERSION
      if (numberOf(version) < wanted) reasons.push(`${name} is version ${version}, too old for the kernel ${release()}`)
      else if (/Looks good/.test(await run(command, 'check')))
        return { command, version, requirements: await requirementsOf(version) }
      else reasons.push(`${name} check finds something missing in the kernel`)
    } catch (error) {
      reasons.push(`${name}: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`)
    }
  }
  return { reason: reasons.join('; ') || 'CRIU is not installed' }
}

const cpuFeatures = async (): Promise<string[]> => {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '')
  return (/^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1] ?? '').split(' ').filter(Boolean).sort()
}

const requirementsOf = async (version: string): Promise<MemoryRequirements> => ({
  architecture: process.arch,
  runtime: 'oci',
  format: `criu ${version.split('.')[0]}`,
  kernel: release(),
  cpuFeatures: await cpuFeatures(),
})
