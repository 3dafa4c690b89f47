import type { HostPart } from './host-parts.ts'
import { findCommand, runCommand } from './run-command.ts'
import type { StepProgress } from './step.ts'

const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
/** How long apt waits for another apt to end. */
const lockTimeoutSeconds = 300

interface AptContext {
  readonly report: (progress: StepProgress) => void
  readonly signal: AbortSignal
}

/** Installs the packages that bring `parts`. Reads the package lists anew only when a name is not in them, or fails. */
export const aptInstall = async (parts: readonly HostPart[], context: AptContext): Promise<void> => {
  let names = await candidates(parts, context.signal)
  let updated = false
  if (names.missing.length > 0) {
    await update(context)
    updated = true
    names = await candidates(parts, context.signal)
    if (names.missing.length > 0) throw new Error(`apt knows no package for: ${names.missing.join(', ')}`)
  }
  try {
    await install(names.found, context)
  } catch (error) {
    // Lists that are days old name versions that the mirror has already replaced.
    if (updated) throw error
    await update(context)
    await install(names.found, context)
  }
}

const apt = (verb: string, ...args: string[]): string[] => [
  findCommand('apt-get') ?? 'apt-get',
  '-o',
  `DPkg::Lock::Timeout=${lockTimeoutSeconds}`,
  '-o',
  'APT::Status-Fd=3',
  '-y',
  '-q',
  verb,
  ...args,
]

const run = async (argv: string[], context: AptContext, from: number, to: number): Promise<void> => {
  const onStatusLine = (line: string): void => {
    const [kind, , percent, ...rest] = line.split(':')
    if (kind !== 'dlstatus' && kind !== 'pmstatus') return
    // Downloading and installing each report 0 to 100: half of the span for each.
    const half = (to - from) / 2
    const start = kind === 'dlstatus' ? from : from + half
    context.report({ fraction: start + (half * Number(percent)) / 100, note: rest.join(':').trim() })
  }
  const result = await runCommand(argv, { env, signal: context.signal, onStatusLine })
  if (result.code !== 0) {
    const errors = result.lines.filter((line) => /^(E:|dpkg: error)/.test(line))
    const shown = errors.length > 0 ? errors : result.lines.slice(-5)
    throw new Error([`${argv.includes('update') ? 'apt-get update' : 'apt-get install'} failed:`, ...shown].join('\n'))
  }
}

const update = (context: AptContext): Promise<void> => {
  context.report({ fraction: 0, note: 'reading package lists' })
  return run(apt('update'), context, 0, 0.1)
}

const install = (names: readonly string[], context: AptContext): Promise<void> => {
  context.report({ fraction: 0.1, note: names.join(' ') })
  return run(apt('install', '--no-install-recommends', ...names), context, 0.1, 1)
}

/** For each part, the first of its packages that apt could install now. */
const candidates = async (
  parts: readonly HostPart[],
  signal: AbortSignal,
): Promise<{ found: string[]; missing: string[] }> => {
  const clang = await clangVersion(signal)
  const wanted = parts.map((part) => ({
    part,
    names: (part.packages.apt ?? []).map((name) => name.replace('*', clang ?? '0')),
  }))
  const known = await installable(
    wanted.flatMap(({ names }) => names),
    signal,
  )
  const found = new Set<string>()
  const missing: string[] = []
  for (const { part, names } of wanted) {
    const name = names.find((candidate) => known.has(candidate))
    if (name === undefined) missing.push(part.name)
    else found.add(name)
  }
  return { found: [...found], missing }
}

/** The names that have a version to install, by `apt-cache policy`. */
const installable = async (names: readonly string[], signal: AbortSignal): Promise<Set<string>> => {
  const { lines } = await runCommand(['apt-cache', 'policy', ...names], { env, signal })
  const known = new Set<string>()
  let name = ''
  for (const line of lines) {
    if (/^\S+:$/.test(line)) name = line.slice(0, -1).replace(/:[a-z0-9]+$/, '')
    else if (/^\s+Candidate: (?!\(none\))/.test(line)) known.add(name)
  }
  return known
}

/** The major version of the distribution's clang: `clang` depends on `clang-14`. */
const clangVersion = async (signal: AbortSignal): Promise<string | undefined> => {
  const { lines } = await runCommand(['apt-cache', 'depends', 'clang'], { env, signal })
  return lines.map((line) => /Depends: clang-(\d+)$/.exec(line)?.[1]).find((version) => version !== undefined)
}
