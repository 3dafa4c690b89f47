import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parse, parseAllDocuments } from 'yaml'

export const checkout = resolve(import.meta.dirname, '..')
export const deploy = join(checkout, 'deploy')

export const textOf = (path: string): string => readFileSync(join(deploy, path), 'utf8')

/** Every file below `deploy/`, by its path from there. */
export const deployFiles = (): string[] =>
  readdirSync(deploy, { recursive: true, encoding: 'utf8' })
    .filter(
      (path) => !path.startsWith('secrets') && !path.endsWith('secrets.env') && statSync(join(deploy, path)).isFile(),
    )
    .sort()

type Values = (string | number)[] | Record<string, string | number | null> | string

export interface ComposeService {
  readonly image?: string
  readonly environment?: Record<string, string>
  readonly command?: Values
  readonly entrypoint?: Values
  readonly ports?: (string | { target: number; published: number })[]
  readonly volumes?: string[]
  readonly secrets?: string[]
  readonly configs?: { source: string }[]
  readonly depends_on?: Record<string, object>
  readonly networks?: string[] | Record<string, object>
  readonly restart?: string
  readonly privileged?: boolean
  readonly user?: string
  readonly deploy?: { resources?: { limits?: object }; restart_policy?: object }
  readonly healthcheck?: object
}

export interface ComposeFile {
  readonly services: Record<string, ComposeService>
  readonly networks?: Record<string, object | null>
  readonly volumes?: Record<string, object | null>
  readonly secrets?: Record<string, { file: string }>
  readonly configs?: Record<string, { file: string }>
}

export const composeOf = (path: string): ComposeFile => parse(textOf(path), { merge: true })

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string; readonly labels?: Record<string, string> }
  readonly [field: string]: unknown
}

export const manifestsIn = (text: string): Manifest[] =>
  parseAllDocuments(text).map((document) => {
    const [error] = document.errors
    if (error) throw error
    return document.toJS()
  })

export const canRun = (program: string, ...args: string[]): boolean => spawnSync(program, args).status === 0

/** A copy of `deploy/` with its secrets made, as its own script makes them. */
export const withSecrets = <T>(use: (directory: string) => T): T => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-deploy-'))
  try {
    const copy = join(directory, 'deploy')
    cpSync(deploy, copy, { recursive: true, filter: (path) => !/\/secrets$|secrets\.env$/.test(path) })
    execFileSync(join(copy, 'make-secrets.sh'), { stdio: 'ignore' })
    return use(copy)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** The overlay as it would be applied; undefined where neither kustomize nor kubectl is installed. */
export const builtOverlay = (): Manifest[] | undefined => {
  const build = [
    ['kustomize', 'build'],
    ['kubectl', 'kustomize'],
  ].find(([program = '', word = '']) => canRun(program, word, '--help'))
  if (!build) return undefined
  const [program = '', word = ''] = build
  return withSecrets((directory) =>
    manifestsIn(execFileSync(program, [word, join(directory, 'kubernetes/overlays/example')], { encoding: 'utf8' })),
  )
}

/** The manifests of the base as they are written. */
export const baseManifests = (): Manifest[] =>
  deployFiles()
    .filter((path) => /^kubernetes\/base\/.*\.yaml$/.test(path) && !path.endsWith('kustomization.yaml'))
    .flatMap((path) => manifestsIn(textOf(path)))
