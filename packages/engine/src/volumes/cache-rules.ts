import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { posix } from 'node:path'
import type { CacheName } from '@bramble/protocol'
import { isArchiveAnswer } from './pip-entry.ts'
import type { CachePlace } from './volumes.ts'

export interface CacheRule {
  /** Where the tool looks for it. */
  place(place: CachePlace): string
  /** Which files, by their paths in the cache, others of the tenant may read. */
  readonly shared: RegExp
  /** Where the tool looks for them, if that is not where it wrote them. */
  target?(path: string): string
  /** Whether they may read this one; `copy` is what they would read, and may be changed. */
  check?(path: string, copy: string): Promise<boolean>
}

const digestOf = async (algorithm: string, file: string): Promise<string> => {
  const hash = createHash(algorithm)
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

const isContent = async (path: string, copy: string): Promise<boolean> => {
  const [, algorithm = '', ...parts] = path.split('/')
  return (await digestOf(algorithm, copy)) === parts.join('')
}

const isPackage = async (_path: string, copy: string): Promise<boolean> => {
  await using handle = await open(copy)
  const { buffer } = await handle.read(Buffer.alloc(8), 0, 8, 0)
  return buffer.toString('latin1') === '!<arch>\n'
}

const isEntry = async (path: string, copy: string): Promise<boolean> =>
  path.endsWith('.body') || (await isArchiveAnswer(copy))

/**
 * What others of a tenant may read of what a sandbox downloaded: archives, which the tool compares with a checksum that it has
 * from elsewhere. Never what says which archive is meant (npm's index entries, cargo's index, Go's lists), for the tools believe
 * it; nor what they unpacked or built (wheels, cargo's `src`, Go's module trees), which nobody checks again.
 * `docs/volumes.md` has what each tool checks, and when it does not.
 */
export const CACHE_RULES: Readonly<Record<CacheName, CacheRule>> = {
  npm: {
    place: ({ home, env }) => posix.join(env.npm_config_cache ?? env.NPM_CONFIG_CACHE ?? `${home}/.npm`, '_cacache'),
    // cacache(7): a file's name is its digest, by which npm finds what a lock file or a registry names.
    shared: /^content-v2\/(sha1|sha256|sha384|sha512)\/[0-9a-f]{2}\/[0-9a-f]{2}\/[0-9a-f]{36,124}$/,
    check: isContent,
  },
  pip: {
    place: ({ home, env }) => env.PIP_CACHE_DIR ?? posix.join(env.XDG_CACHE_HOME ?? `${home}/.cache`, 'pip'),
    shared: /^http(-v2)?\/([0-9a-f]\/){5}[0-9a-f]{56}(\.body)?$/,
    check: isEntry,
  },
  cargo: {
    place: ({ home, env }) => posix.join(env.CARGO_HOME ?? `${home}/.cargo`, 'registry'),
    shared: /^cache\/[\w.-]+\/[\w.+-]+\.crate$/,
  },
  go: {
    place: ({ home, env }) => {
      const modules = env.GOMODCACHE ?? posix.join((env.GOPATH ?? `${home}/go`).split(':')[0] ?? '', 'pkg/mod')
      return posix.join(modules, 'cache/download')
    },
    // Without `.ziphash`, which it would believe, go compares the archive with go.sum. A branch's `.info` says what it is now.
    shared: /^(?!sumdb\/).*\/@v\/v\d+\.\d+\.\d+[\w.+!-]*\.(info|mod|zip)$/,
  },
  apt: {
    place: () => '/var/cache/apt/archives',
    shared: /^[a-z0-9][a-zA-Z0-9+.%~_-]*\.deb$/,
    // What is in place already, apt installs if its size is right; what it finds in `partial` it compares with the signed index.
    target: (path) => `partial/${path}`,
    // A Debian package is an ar archive (deb(5)).
    check: isPackage,
  },
}
