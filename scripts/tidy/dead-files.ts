import { posix } from 'node:path'
import { isTest, isTypeScript, type Repository, type Rule } from './repository.ts'

/** Files that something outside the import graph starts: a person, npm, vitest, or the CLI's table of commands. */
const ENTRIES = [
  /^packages\/cli\/src\/(main|commands\/[a-z-]+)\.ts$/,
  /^scripts\/[a-z-]+\.ts$/,
  /^examples\/[a-z-]+\.ts$/,
  /^bench\/([a-z-]+\/main|[a-z-]+)\.ts$/,
  /^[a-z.]+\.ts$/,
]

/** Every TypeScript file is reached from an entry, an export of a package, a test, or a script of package.json. */
export const noDeadFiles: Rule = (repository) => {
  const reached = new Set<string>()
  const visit = (path: string): void => {
    const text = repository.get(path)
    if (reached.has(path) || text === undefined) return
    reached.add(path)
    // A name in quotes is enough: workers and child processes are started by a path, not by an import.
    for (const [, quoted = ''] of text.matchAll(/['"`]([^'"`\n]*\.ts)['"`]/g))
      visit(posix.join(posix.dirname(path), quoted))
  }
  for (const path of repository.keys()) if (isTest(path) || ENTRIES.some((entry) => entry.test(path))) visit(path)
  for (const path of manifestEntries(repository)) visit(path)
  return [...repository.keys()]
    .filter((path) => isTypeScript(path) && !reached.has(path))
    .map((path) => `${path}:1 nothing uses this file`)
}

const manifestEntries = (repository: Repository): string[] => {
  const entries: string[] = []
  for (const [path, text] of repository) {
    if (!/(^|\/)package\.json$/.test(path)) continue
    const { exports = {}, imports = {}, scripts = {} } = JSON.parse(text)
    const named = [...Object.values(exports), ...Object.values(imports).flatMap((by) => Object.values(by as object))]
    const words = Object.values(scripts).flatMap((script) => String(script).split(' '))
    for (const file of [...named.map(String), ...words])
      if (file.endsWith('.ts')) entries.push(posix.join(posix.dirname(path), file))
  }
  return entries
}
