import type { ExecutionResult } from './result.ts'
import type { ExecutionSpec } from './spec.ts'

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json | undefined }

/**
 * The canonical JSON of RFC 8785: members sorted by UTF-16 code units, no white space, numbers and strings as
 * ECMAScript writes them. Members that are `undefined` are left out; a number that is not finite, or a lone surrogate,
 * is refused, since other languages cannot write it.
 */
export const canonicalJson = (value: Json): string => {
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new TypeError('canonical JSON has no NaN and no Infinity')
    return JSON.stringify(value)
  }
  if (typeof value === 'string') {
    if (!value.isWellFormed()) throw new TypeError('canonical JSON has no lone surrogates')
    return JSON.stringify(value)
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`
  const members: string[] = []
  for (const name of Object.keys(value).sort()) {
    const member = value[name]
    if (member !== undefined) members.push(`${canonicalJson(name)}:${canonicalJson(member)}`)
  }
  return `{${members.join(',')}}`
}

/** SHA-256 in lower-case hex, handed in by the caller: this package runs where there is no `node:crypto`. */
export type Sha256 = (data: string | Uint8Array) => string

const bytesOfBase64 = (text: string): Uint8Array => Uint8Array.from(atob(text), (char) => char.charCodeAt(0))

const digestFiles = (files: NonNullable<ExecutionSpec['files']>, sha256: Sha256): Json => {
  const digests: Record<string, Json> = {}
  for (const [path, file] of Object.entries(files)) {
    const bytes =
      typeof file === 'string'
        ? file
        : 'content' in file
          ? file.content
          : 'base64' in file
            ? bytesOfBase64(file.base64)
            : undefined
    const mode = typeof file === 'string' ? undefined : file.mode
    digests[path] = {
      sha256: bytes === undefined ? (file as { blob: string }).blob : sha256(bytes),
      mode: mode ?? 0o644,
    }
  }
  return digests
}

/** Whether outputs that are too large for the answer come as blobs. */
export const outputsAsBlobs = ({ outputBlobs, mode }: Pick<ExecutionSpec, 'outputBlobs' | 'mode'>): boolean =>
  outputBlobs ?? mode === 'cached'

/**
 * The input hash: SHA-256 of the canonical JSON of what determines an execution. Labels, time to live and other things
 * that do not change the result are left out. `imageDigest` stands for the image, since names move.
 */
export const inputHash = (spec: ExecutionSpec, imageDigest: string, sha256: Sha256): string => {
  const { cpus: _cpus, gpus, ...resources } = spec.resources
  return sha256(
    canonicalJson({
      version: 1,
      image: imageDigest,
      command: spec.command,
      env: spec.env,
      stdin:
        spec.stdin === undefined
          ? undefined
          : sha256(typeof spec.stdin === 'string' ? spec.stdin : bytesOfBase64(spec.stdin.base64)),
      files: spec.files && digestFiles(spec.files, sha256),
      workdir: spec.workdir,
      user: spec.user,
      resources: { ...resources, gpus },
      network: spec.network,
      checkpoint: spec.checkpoint ?? spec.parent,
      volumes: spec.volumes,
      secrets: spec.secrets,
      outputs: spec.outputs,
      // An output that is too large has a digest then, instead of a reason.
      outputBlobs: spec.outputs?.length && outputsAsBlobs(spec) ? true : undefined,
    }),
  )
}

export interface ResultDigests {
  status: ExecutionResult['status']
  exitCode: number | null
  signal?: string | undefined
  /** SHA-256 of the kept bytes of each stream. */
  stdoutSha256: string
  stderrSha256: string
  /** SHA-256 of each declared output, or the reason there is none. */
  outputs: Record<string, string>
}

/** The result hash: SHA-256 of the canonical JSON of what came out. Equal hashes are what a network agrees on. */
export const resultHash = (digests: ResultDigests, sha256: Sha256): string =>
  sha256(canonicalJson({ version: 1, ...digests }))
