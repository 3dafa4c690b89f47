import { isUtf8 } from 'node:buffer'
import type { BlobStore } from '@bramble/blobs'
import {
  type BlobHash,
  blobHashSchema,
  type ExecutionResult,
  encodingSchema,
  executionResultSchema,
  LIMITS,
  type OutputFile,
  type ResultDigests,
  resultHash,
} from '@bramble/protocol'
import { z } from 'zod'
import { sha256 } from '../outcome.ts'
import { jsonIn } from './names.ts'
import { asCached, jsonTailOf } from './prepared.ts'
import type { CachedResult } from './result-cache.ts'

/** A text is in the value itself, or in a blob where it is larger. */
const INLINE_BYTES = 32 * 1024

const size = z.number().int().min(0).max(LIMITS.maxBlobBytes.value)
const textSchema = z.union([
  z.strictObject({ text: z.string() }),
  z.strictObject({ blob: blobHashSchema, sizeBytes: size.max(LIMITS.maxCachedResultBytes.value) }),
])
type StoredText = z.infer<typeof textSchema>

const outputSchema = z.union([
  z.strictObject({ encoding: encodingSchema, content: textSchema, sizeBytes: size, sha256: blobHashSchema }),
  z.strictObject({ blob: blobHashSchema, sizeBytes: size, sha256: blobHashSchema }),
  z.strictObject({ error: z.enum(['not_found', 'not_a_file', 'too_large', 'unreadable']), sizeBytes: size.optional() }),
])

const { shape } = executionResultSchema
const name = z.string().max(512)

/** The value of `results/<tenant>/<hash>`, and what Redis holds. Written by any node of any version: strict, and checked. */
export const storedResultSchema = z.strictObject({
  version: z.literal(1),
  tenant: z.string().max(256),
  inputHash: blobHashSchema,
  /** The node that ran it. */
  node: z.string().max(64),
  createdAtMs: z.number().int().min(0),
  expiresAtMs: z.number().int().min(0),
  /** The newest invalidation that its node knew when the execution began. */
  seen: z.number().int().min(0),
  image: name,
  imageDigest: name,
  labels: z.record(name, name),
  id: shape.id,
  runtime: name,
  status: z.enum(['succeeded', 'failed']),
  exitCode: z.number().int(),
  encoding: encodingSchema,
  stdout: textSchema,
  stderr: textSchema,
  outputs: z.record(z.string(), outputSchema),
  resultHash: blobHashSchema,
  timings: shape.timings,
  startedAt: z.iso.datetime(),
  finishedAt: z.iso.datetime(),
})
export type StoredResult = z.infer<typeof storedResultSchema>

export interface EntryOrigin {
  readonly tenant: string
  readonly node: string
}

/** A blob that is put before the value that names it. */
export interface Attached {
  readonly hash: BlobHash
  readonly bytes: Uint8Array
}

/** What is stored of a result: the value, and the blobs of its larger texts. */
export const toStored = (entry: CachedResult, origin: EntryOrigin): { value: StoredResult; attached: Attached[] } => {
  const attached: Attached[] = []
  const { result, createdAtMs, expiresAtMs, seen, image, imageDigest, labels } = entry
  const put = (text: string, encoding: 'utf8' | 'base64'): StoredText => {
    if (text.length <= INLINE_BYTES) return { text }
    const bytes = Buffer.from(text, encoding)
    const hash = sha256(bytes) as BlobHash
    attached.push({ hash, bytes })
    return { blob: hash, sizeBytes: bytes.length }
  }
  const outputs: StoredResult['outputs'] = {}
  for (const [path, output] of Object.entries(result.outputs))
    outputs[path] =
      'content' in output
        ? { ...output, content: put(output.content, output.encoding), sha256: output.sha256 as BlobHash }
        : 'blob' in output
          ? { ...output, sha256: output.sha256 as BlobHash }
          : output
  const { id, runtime, encoding, resultHash, timings, startedAt, finishedAt } = result
  return {
    attached,
    value: {
      version: 1,
      ...origin,
      inputHash: result.inputHash as BlobHash,
      ...{ createdAtMs, expiresAtMs, seen, image, imageDigest, labels },
      ...{ id, runtime, encoding, timings, startedAt, finishedAt },
      status: result.status === 'succeeded' ? 'succeeded' : 'failed',
      exitCode: result.exitCode ?? 0,
      stdout: put(result.stdout, encoding),
      stderr: put(result.stderr, encoding),
      outputs,
      resultHash: resultHash as BlobHash,
    },
  }
}

/** The blobs that a stored result needs: those of its texts, and those that it answers with. */
export const blobsOf = (
  stored: StoredResult,
): { texts: BlobHash[]; outputs: { hash: BlobHash; sizeBytes: number }[] } => {
  const texts: BlobHash[] = []
  const outputs: { hash: BlobHash; sizeBytes: number }[] = []
  const text = (one: StoredText): void => void ('blob' in one && texts.push(one.blob))
  text(stored.stdout)
  text(stored.stderr)
  for (const output of Object.values(stored.outputs))
    if ('content' in output) text(output.content)
    else if ('blob' in output) outputs.push({ hash: output.blob, sizeBytes: output.sizeBytes })
  return { texts, outputs }
}

export const parseStored = (value: Uint8Array): StoredResult | undefined =>
  storedResultSchema.safeParse(jsonIn(value)).data

const collect = async (store: BlobStore, hash: BlobHash, sizeBytes: number, signal?: AbortSignal): Promise<Buffer> => {
  const stream = await store.get(hash, { signal })
  const pieces: Uint8Array[] = []
  let bytes = 0
  for await (const piece of stream) {
    bytes += piece.length
    if (bytes > sizeBytes) break
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}

/**
 * The result as it is answered: its texts are fetched, and everything about it is held against its result hash. Undefined:
 * it is not what it says it is. Throws what the store throws.
 */
export const fromStored = async (
  store: BlobStore,
  stored: StoredResult,
  signal?: AbortSignal,
): Promise<CachedResult | undefined> => {
  const { encoding } = stored
  const bytesOf = async (text: StoredText, as: 'utf8' | 'base64'): Promise<Buffer> =>
    'text' in text ? Buffer.from(text.text, as) : await collect(store, text.blob, text.sizeBytes, signal)
  const digests: ResultDigests['outputs'] = {}
  const outputs: Record<string, OutputFile> = {}
  for (const [path, output] of Object.entries(stored.outputs)) {
    if ('error' in output) {
      digests[path] = output.error
      outputs[path] = output
    } else if ('content' in output) {
      const bytes = await bytesOf(output.content, output.encoding)
      digests[path] = sha256(bytes)
      if (bytes.length !== output.sizeBytes || digests[path] !== output.sha256) return undefined
      if (output.encoding === 'utf8' && !isUtf8(bytes)) return undefined
      outputs[path] = { ...output, content: bytes.toString(output.encoding) }
    } else {
      if (output.blob !== output.sha256) return undefined
      const info = await store.stat(output.blob, { signal })
      if (info?.sizeBytes !== output.sizeBytes) return undefined
      digests[path] = output.sha256
      outputs[path] = output
    }
  }
  const stdout = await bytesOf(stored.stdout, encoding)
  const stderr = await bytesOf(stored.stderr, encoding)
  if (encoding === 'utf8' && !(isUtf8(stdout) && isUtf8(stderr))) return undefined
  const { status, exitCode } = stored
  if ((status === 'succeeded') !== (exitCode === 0)) return undefined
  const hashes = { stdoutSha256: sha256(stdout), stderrSha256: sha256(stderr) }
  if (resultHash({ status, exitCode, ...hashes, outputs: digests }, sha256) !== stored.resultHash) return undefined
  const { createdAtMs, expiresAtMs, seen, image, imageDigest, labels } = stored
  const { id, runtime, inputHash, timings, startedAt, finishedAt } = stored
  const result: ExecutionResult = asCached({
    ...{ id, runtime, status, exitCode, encoding, outputs, inputHash, timings, startedAt, finishedAt },
    mode: 'cached',
    image: imageDigest,
    stdout: stdout.toString(encoding),
    stderr: stderr.toString(encoding),
    truncated: false,
    cached: true,
    resultHash: stored.resultHash,
    usage: { cpuMs: 0, peakMemoryBytes: 0, diskBytes: 0, egressBytes: 0 },
  })
  return { result, jsonTail: jsonTailOf(result), createdAtMs, expiresAtMs, seen, image, imageDigest, labels }
}
