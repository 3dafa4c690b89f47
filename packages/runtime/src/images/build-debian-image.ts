import { chmod, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { BrambleError } from '@bramble/protocol'
import type { Abortable } from '../runtime.ts'
import { debianProgress } from './debian-progress.ts'
import { removeTree } from './host-file.ts'
import { imageInvalid } from './image-errors.ts'
import type { ImageStore, LocalImage, OnImportProgress } from './image-store.ts'
import { DEFAULT_TOOLS, lastWords, startTool } from './run-tool.ts'

export interface BuildDebianOptions extends Abortable {
  /** Debian packages beside the minimal system; what they depend on comes along, what they recommend does not. */
  readonly packages: readonly string[]
  /** A release's code name. Default `bookworm`; the host's keyring must know its key. */
  readonly suite?: string
  /** Default `debian`. */
  readonly name?: string
  /** Where packages come from while building. Default: Debian's own. The image's sources are Debian's own in any case. */
  readonly mirror?: string
  /** The program `mmdebstrap`, where it is not on PATH. */
  readonly mmdebstrap?: string
  readonly onProgress?: OnImportProgress
}

const DEFAULT_SUITE = 'bookworm'
/** Suites that have neither updates nor security beside them. */
const ROLLING = ['sid', 'unstable', 'experimental']
const SUITE = /^[a-z][a-z0-9-]{1,31}$/
/** Debian policy, 5.6.1. */
const PACKAGE = /^[a-z0-9][a-z0-9+.-]{1,127}$/
const MAX_PACKAGES = 256
/** What no program reads; half of a small image otherwise. Copyright files stay. */
const LEFT_OUT = ['man/*', 'info/*', 'locale/*', 'doc/*', 'lintian/*', 'linda/*']

/** Makes a Debian image with mmdebstrap, and imports it. Needs root, and a way to Debian's packages. */
export const buildDebianImage = async (store: ImageStore, options: BuildDebianOptions): Promise<LocalImage> => {
  const { packages, suite = DEFAULT_SUITE, name = 'debian', mirror, signal, onProgress = () => {} } = options
  check('suite', [suite], SUITE)
  check('packages', packages, PACKAGE)
  if (packages.length > MAX_PACKAGES) throw invalid('packages', `more than ${MAX_PACKAGES} packages`)
  if (mirror !== undefined && !isMirror(mirror)) throw invalid('mirror', 'is not an http or https URL')

  const work = await mkdtemp(join(tmpdir(), 'bramble-debian-'))
  try {
    // apt downloads as a user of its own, who must reach the tree that is being built in there.
    await chmod(work, 0o755)
    const path = join(work, `${suite}.tar`)
    const exclude = LEFT_OUT.map((glob) => `--dpkgopt=path-exclude=/usr/share/${glob}`)
    const args = [
      '--verbose',
      '--variant=minbase',
      '--format=tar',
      ...(packages.length > 0 ? [`--include=${packages.join(',')}`] : []),
      ...exclude,
      '--dpkgopt=path-include=/usr/share/doc/*/copyright',
      `--customize-hook=${finish(suite)}`,
      suite,
      path,
      ...(mirror === undefined ? [] : [mirror]),
    ]
    await build(options.mmdebstrap ?? DEFAULT_TOOLS.mmdebstrap, args, { work, signal, onProgress })
    return await store.import({ kind: 'rootfsTar', path }, { name, signal, onProgress })
  } finally {
    await removeTree(work)
  }
}

const build = async (
  mmdebstrap: string,
  args: readonly string[],
  { work, signal, onProgress }: { work: string; signal: AbortSignal | undefined; onProgress: OnImportProgress },
): Promise<void> => {
  const onProgressLine = debianProgress(onProgress)
  const errors: string[] = []
  const onLine = (line: string) => {
    if (line.startsWith('E: ') && errors.length < MAX_ERRORS) errors.push(line.slice(3, 500))
    onProgressLine(line)
  }
  const running = startTool('unshare', [...IN_NAMESPACES, mmdebstrap, ...args], {
    signal,
    env: { TMPDIR: work, DEBIAN_FRONTEND: 'noninteractive' },
    onLine,
  })
  createInterface({ input: running.stdout }).on('line', onLine)
  running.stdin.end()
  const { exitCode, message } = await running.ended
  if (exitCode !== 0) throw imageInvalid(`mmdebstrap failed: ${errors.join('; ') || lastWords(message)}`)
}

const MAX_ERRORS = 3
/**
 * mmdebstrap mounts /proc, /sys and device nodes into the tree. In a mount and pid namespace of its own nothing of that
 * is ever seen on the host, and all of it, with every process, is gone when it is killed (unshare(1)).
 */
const IN_NAMESPACES = ['--mount', '--propagation=private', '--pid', '--fork', '--kill-child', '--mount-proc', '--']

/** A shell script on the finished tree, `$1`: public sources, nothing of this host, and the user `app` of every image. */
const finish = (suite: string): string => {
  const sources = [`deb http://deb.debian.org/debian ${suite} main`]
  if (!ROLLING.includes(suite)) {
    sources.push(`deb http://deb.debian.org/debian ${suite}-updates main`)
    sources.push(`deb http://security.debian.org/debian-security ${suite}-security main`)
  }
  return [
    'set -e',
    'rm -rf "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf "$1"/etc/hostname',
    `printf '%s\\n' ${sources.map((line) => `'${line}'`).join(' ')} > "$1"/etc/apt/sources.list`,
    `printf '127.0.0.1\\tlocalhost\\n::1\\tlocalhost ip6-localhost ip6-loopback\\n' > "$1"/etc/hosts`,
    'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash app',
  ].join('; ')
}

const isMirror = (mirror: string): boolean => {
  const url = /^[!-~]{1,512}$/.test(mirror) && URL.canParse(mirror) ? new URL(mirror) : undefined
  return url !== undefined && ['http:', 'https:'].includes(url.protocol)
}

const check = (path: string, values: readonly string[], pattern: RegExp): void => {
  const wrong = values.find((value) => !pattern.test(value))
  if (wrong !== undefined) throw invalid(path, `${JSON.stringify(wrong.slice(0, 200))} is not a name of Debian's`)
}

const invalid = (path: string, message: string) =>
  new BrambleError('invalid_request', { detail: `\`${path}\`: ${message}`, issues: [{ path, message }] })
