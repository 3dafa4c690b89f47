import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The files of a checkout: by path from its root, with `/`. Rules see nothing else, so samples are easily made. */
export type Repository = ReadonlyMap<string, string>

/** What no person writes, or that is not text: held to no rule. */
const NOT_HAND_WRITTEN = /(^|\/)(package-lock\.json|LICENSE)$|\.golden$|\.(png|jpg|gz|zst|xz|tar|bin)$/

/** Every file that git tracks, or would if it were added; deleted ones left out. */
export const readRepository = (root: string): Repository => {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  const paths = listed.split('\0').filter((path) => path !== '' && !NOT_HAND_WRITTEN.test(path))
  const files = new Map<string, string>()
  for (const path of paths.sort()) {
    const file = join(root, path)
    if (existsSync(file)) files.set(path, readFileSync(file, 'utf8'))
  }
  return files
}

/** A rule of the repository: a line per fault, `path:line what`, none when all is well. */
export type Rule = (repository: Repository) => string[]

/** Every match of `pattern` in the files that `covers` takes, as faults. */
export const findings = (
  repository: Repository,
  covers: (path: string) => boolean,
  pattern: RegExp,
  say: (match: RegExpExecArray) => string | undefined,
): string[] => {
  const faults: string[] = []
  for (const [path, text] of repository) {
    if (!covers(path)) continue
    for (const match of text.matchAll(pattern)) {
      const fault = say(match)
      if (fault !== undefined) faults.push(`${path}:${lineAt(text, match.index)} ${fault}`)
    }
  }
  return faults
}

export const lineAt = (text: string, index: number): number => text.slice(0, index).split('\n').length

export const isTypeScript = (path: string): boolean => path.endsWith('.ts')
export const isTest = (path: string): boolean => /\.(test|bench)\.ts$/.test(path) || /(^|\/)test\//.test(path)
