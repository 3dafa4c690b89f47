import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readFile, stat } from 'node:fs/promises'
import { posix } from 'node:path'
import type { CacheName } from '@bramble/protocol'
import type { CachePlace } from './volumes.ts'

/**
 * Whether a file that a sandbox added to a cache may be read by others of its tenant. `path`: relative to the cache;
 * `file`: where it lies; `present`: where the generation has a file of that name already, or undefined.
 */
export type Check = (path: string, file: string, present: string | undefined) => Promise<boolean>

export interface CacheRule {
  /** Where the tool looks for it. */
  place(place: CachePlace): string
  readonly check: Check
}

/** An index of npm's cache is lines, a few hundred bytes each; what is larger is not looked at. */
const INDEX_BYTES_MAX = 1024 * 1024

const digestOf = async (algorithm: string, file: string): Promise<string> => {
  const hash = createHash(algorithm)
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

const matches =
  (pattern: RegExp): Check =>
  async (path, _file, present) =>
    present === undefined && pattern.test(path)

/** cacache(7) `content-v2`: a file's name is its digest. */
const CONTENT = /^content-v2\/(sha1|sha256|sha384|sha512)\/([0-9a-f]{2})\/([0-9a-f]{2})\/([0-9a-f]{8,124})$/
/** cacache `index-v5`: one file for each key, by the key's SHA-256; lines are only ever added. */
const INDEX = /^index-v5\/([0-9a-f]{2})\/([0-9a-f]{2})\/([0-9a-f]{60})$/

const isIndex = (text: string, bucket: string): boolean =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .every((line) => {
      const [sum, json] = [line.slice(0, 40), line.slice(41)]
      if (line[40] !== '\t' || createHash('sha1').update(json).digest('hex') !== sum) return false
      try {
        const { key } = JSON.parse(json) as { key?: unknown }
        return typeof key === 'string' && createHash('sha256').update(key).digest('hex') === bucket
      } catch {
        return false
      }
    })

const checkNpm: Check = async (path, file, present) => {
  const content = CONTENT.exec(path)
  if (content) {
    const [, algorithm = '', ...parts] = content
    return present === undefined && (await digestOf(algorithm, file)) === parts.join('')
  }
  const index = INDEX.exec(path)
  if (!index || (await stat(file)).size > INDEX_BYTES_MAX) return false
  const text = await readFile(file, 'utf8')
  if (present !== undefined && !text.startsWith(await readFile(present, 'utf8'))) return false
  return isIndex(text, index.slice(1).join(''))
}

/** A Debian package is an ar archive (deb(5)); apt compares it with the signed index before it is used. */
const checkApt: Check = async (path, file, present) => {
  if (present !== undefined || !/^[a-z0-9][a-zA-Z0-9+.%~_-]*\.deb$/.test(path)) return false
  await using handle = await open(file)
  const { buffer } = await handle.read(Buffer.alloc(8), 0, 8, 0)
  return buffer.toString('latin1') === '!<arch>\n'
}

/**
 * What each tool caches that it compares with a checksum from elsewhere before it uses it (a lock file, a signed index), or
 * that is named by its own digest. What a tool unpacked or built (wheels, cargo's `src`, Go's module trees) it does not check
 * again, so that is never shared; nor is Go's `.ziphash`, which it would believe.
 */
export const CACHE_RULES: Readonly<Record<CacheName, CacheRule>> = {
  npm: { place: ({ home, env }) => posix.join(env.npm_config_cache ?? `${home}/.npm`, '_cacache'), check: checkNpm },
  pip: {
    place: ({ home, env }) => env.PIP_CACHE_DIR ?? posix.join(env.XDG_CACHE_HOME ?? `${home}/.cache`, 'pip'),
    check: matches(/^http(-v2)?\/([0-9a-f]\/){5}[0-9a-f]{40,64}(\.body)?$/),
  },
  cargo: {
    place: ({ home, env }) => posix.join(env.CARGO_HOME ?? `${home}/.cargo`, 'registry'),
    check: matches(/^(cache\/[\w.-]+\/[\w.+-]+\.crate|index\/[\w.-]+\/(config\.json|\.cache\/[\w./-]+))$/),
  },
  go: {
    place: ({ home, env }) => {
      const modules = env.GOMODCACHE ?? posix.join((env.GOPATH ?? `${home}/go`).split(':')[0] ?? '', 'pkg/mod')
      return posix.join(modules, 'cache/download')
    },
    check: matches(/^(?!sumdb\/).*\/@v\/[^/]+\.(info|mod|zip)$/),
  },
  apt: { place: () => '/var/cache/apt/archives', check: checkApt },
}
