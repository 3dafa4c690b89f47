import { posix } from 'node:path'
import { isTest, isTypeScript, lineAt, type Repository, type Rule } from './repository.ts'

interface PackageRule {
  /** Packages of this workspace that its files may import. */
  readonly imports: readonly string[]
  /** Whether it may use Node's own modules; what runs in a browser may not. */
  readonly node: boolean
  /** A folder of its `src` that only Node loads; no file outside it may import from it. */
  readonly nodeFolder?: string
  /** What its tests may import beside that, to try it against the real thing. */
  readonly testImports?: readonly string[]
}

/** The import table of `ARCHITECTURE.md`. A package may not import what is not named here, nor may it leave its folder. */
export const IMPORT_TABLE: Readonly<Record<string, PackageRule>> = {
  protocol: { imports: [], node: false },
  agent: { imports: [], node: true, testImports: ['runtime'] },
  blobs: { imports: ['protocol'], node: true },
  runtime: { imports: ['protocol', 'blobs'], node: true },
  engine: { imports: ['protocol', 'blobs', 'runtime'], node: true },
  http: { imports: ['protocol'], node: true },
  identity: { imports: ['protocol'], node: false, nodeFolder: 'node' },
  gateway: { imports: ['protocol', 'http', 'identity', 'engine', 'blobs'], node: true, testImports: ['runtime'] },
  coordinator: {
    imports: ['protocol', 'http', 'identity', 'blobs'],
    node: true,
  },
  worker: {
    imports: ['protocol', 'identity', 'engine'],
    node: true,
    testImports: ['blobs', 'coordinator', 'runtime', 'sdk'],
  },
  sdk: {
    imports: ['protocol', 'identity'],
    node: false,
    nodeFolder: 'node',
    testImports: ['gateway', 'engine', 'runtime', 'worker'],
  },
  cli: {
    imports: ['protocol', 'blobs', 'runtime', 'engine', 'http', 'identity', 'gateway', 'coordinator', 'worker', 'sdk'],
    node: true,
  },
}

export interface Import {
  readonly specifier: string
  readonly line: number
  /** By `import()`, so only when the line is reached. */
  readonly lazy: boolean
}

const STATIC = /^(?:import|export)\b[^'"`;]*?\bfrom '([^']+)'|^import '([^']+)'/gm
const LAZY = /\bimport\('([^']+)'\)/g

/** What a file imports. Our formatter puts every static import at the start of a line, in single quotes. */
export const importsOf = (text: string): Import[] =>
  [
    ...[...text.matchAll(STATIC)].map((match) => ({ match, lazy: false })),
    ...[...text.matchAll(LAZY)].map((match) => ({ match, lazy: true })),
  ].map(({ match, lazy }) => ({ specifier: match[1] ?? match[2] ?? '', line: lineAt(text, match.index), lazy }))

const packageOf = (path: string): string | undefined => /^packages\/([^/]+)\//.exec(path)?.[1]

interface Manifest {
  readonly exports: ReadonlySet<string>
  /** Names of its own, that lead to another file by where it runs (`#name`). */
  readonly imports: ReadonlySet<string>
  readonly dependencies: ReadonlySet<string>
}

const manifestOf = (repository: Repository, path: string): Manifest => {
  const json = JSON.parse(repository.get(path) ?? '{}')
  return {
    exports: new Set(Object.keys(json.exports ?? {})),
    imports: new Set(Object.keys(json.imports ?? {})),
    dependencies: new Set(
      ['dependencies', 'devDependencies', 'peerDependencies'].flatMap((kind) => Object.keys(json[kind] ?? {})),
    ),
  }
}

/** Every import is one that the table allows, of something that the package declares, through its front door. */
export const importsFollowTheTable: Rule = (repository) => {
  const faults: string[] = []
  const root = manifestOf(repository, 'package.json')
  for (const [path, text] of repository) {
    if (!isTypeScript(path)) continue
    const home = packageOf(path)
    const rule = home === undefined ? undefined : IMPORT_TABLE[home]
    if (home !== undefined && rule === undefined) {
      faults.push(`${path}:1 the package ${home} is not in the import table`)
      continue
    }
    const manifest = home === undefined ? root : manifestOf(repository, `packages/${home}/package.json`)
    for (const { specifier, line } of importsOf(text)) {
      const fault = faultOf(repository, { path, home, rule, manifest, root, specifier })
      if (fault !== undefined) faults.push(`${path}:${line} ${fault}`)
    }
  }
  return faults
}

interface Asked {
  readonly path: string
  readonly home: string | undefined
  readonly rule: PackageRule | undefined
  readonly manifest: Manifest
  readonly root: Manifest
  readonly specifier: string
}

const faultOf = (repository: Repository, asked: Asked): string | undefined => {
  const { path, home, rule, manifest, root, specifier } = asked
  if (specifier.startsWith('.')) {
    const target = posix.join(posix.dirname(path), specifier)
    if (packageOf(target) !== home) return `${specifier} leaves ${home ?? 'the root'}: import the package by its name`
    if (isOfNode(home, rule, target) && !isOfNode(home, rule, path) && !isTest(path))
      return `${specifier} is for Node only`
    return repository.has(target) ? undefined : `${specifier} is not there`
  }
  if (specifier.startsWith('node:')) {
    const allowed = rule === undefined || rule.node || isTest(path) || isOfNode(home, rule, path)
    return allowed ? undefined : `${home} also runs where there is no Node: no ${specifier}`
  }
  if (specifier.startsWith('#'))
    return manifest.imports.has(specifier) ? undefined : `${specifier} is not among the imports in package.json`
  const [scope = '', name = ''] = specifier.split('/')
  if (scope !== '@bramble') {
    const dependency = scope.startsWith('@') ? `${scope}/${name}` : scope
    const declared = manifest.dependencies.has(dependency) || (home !== undefined && isTestOnly(path, dependency, root))
    return declared ? undefined : `${dependency} is not among the dependencies in package.json`
  }
  if (home !== undefined && rule !== undefined) {
    const allowed = [home, ...rule.imports, ...(isTest(path) ? (rule.testImports ?? []) : [])]
    if (!allowed.includes(name)) return `${home} may not import ${name}`
  }
  const entry = specifier.replace(`@bramble/${name}`, '.')
  const exported = manifestOf(repository, `packages/${name}/package.json`).exports.has(entry)
  return exported ? undefined : `${specifier} is not exported by ${name}`
}

const isOfNode = (home: string | undefined, rule: PackageRule | undefined, path: string): boolean =>
  rule?.nodeFolder !== undefined && path.startsWith(`packages/${home}/src/${rule.nodeFolder}/`)

/** Tests, and the contract suites that packages export for them, use the root's development dependencies. */
const isTestOnly = (path: string, dependency: string, root: Manifest): boolean =>
  (isTest(path) || /\/src\/(.+\/)?testing(\/|\.ts$)/.test(path)) && root.dependencies.has(dependency)

/** `bramble --help` and `bramble run` against a node that runs must not wait for what only a node needs. */
const HEAVY = ['@bramble/runtime', '@bramble/engine', '@bramble/gateway', '@bramble/coordinator', '@bramble/worker']
const MAIN = 'packages/cli/src/main.ts'

/** The CLI loads a command's file, and with it the packages, only when the command is asked for. */
export const cliIsLazy: Rule = (repository) => {
  const faults: string[] = []
  const seen = new Set<string>()
  const visit = (path: string): void => {
    const text = repository.get(path)
    if (seen.has(path) || text === undefined) return
    seen.add(path)
    for (const { specifier, line, lazy } of importsOf(text)) {
      if (lazy) continue
      if (HEAVY.includes(specifier)) faults.push(`${path}:${line} ${specifier} is loaded by every command: import() it`)
      if (specifier.startsWith('.')) visit(posix.join(posix.dirname(path), specifier))
    }
  }
  visit(MAIN)
  return faults
}
