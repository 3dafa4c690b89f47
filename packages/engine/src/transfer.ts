import { isUtf8 } from 'node:buffer'
import { posix } from 'node:path'
import { type BlobHash, type ExecutionSpec, LIMITS, type OutputFile, toBrambleError } from '@bramble/protocol'
import { type Agent, type GotFile, getFile, putFile, streamFile } from '@bramble/runtime'
import type { Place } from './command.ts'
import { sha256 } from './outcome.ts'

/** Files on their way into one sandbox at once. */
const PARALLEL_FILES = 8
const DEFAULT_MODE = 0o644

type Files = NonNullable<ExecutionSpec['files']>

/** How files come from blobs, and large outputs become some. */
export interface BlobTransfer {
  read(hash: BlobHash, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>
  /** Undefined where large outputs are not asked for. */
  readonly keep?: ((content: AsyncIterable<Uint8Array>, signal: AbortSignal) => Promise<KeptBlob>) | undefined
}

export interface KeptBlob {
  readonly hash: BlobHash
  readonly sizeBytes: number
}

/** The blobs that files are made of. */
export const blobsOfFiles = (files: Files = {}): BlobHash[] =>
  Object.values(files).flatMap((file) => (typeof file === 'object' && 'blob' in file ? [file.blob as BlobHash] : []))

const contentOf = async (
  file: Files[string],
  blobs: BlobTransfer,
  signal: AbortSignal,
): Promise<Uint8Array | AsyncIterable<Uint8Array>> => {
  if (typeof file === 'string') return Buffer.from(file)
  if ('content' in file) return Buffer.from(file.content)
  if ('base64' in file) return Buffer.from(file.base64, 'base64')
  return await blobs.read(file.blob as BlobHash, signal)
}

/** Writes the spec's files, as the command's user; relative paths begin in its directory. */
export const putFiles = async (
  agent: Agent,
  files: Files,
  place: Place,
  blobs: BlobTransfer,
  signal: AbortSignal,
): Promise<void> => {
  const queue = Object.entries(files)
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const [path, file] = next
      await putFile(agent, {
        path: posix.resolve(place.workdir, path),
        mode: (typeof file === 'object' ? file.mode : undefined) ?? DEFAULT_MODE,
        content: await contentOf(file, blobs, signal),
        user: place.user,
        signal,
      })
    }
  }
  await Promise.all(Array.from({ length: Math.min(PARALLEL_FILES, queue.length) }, worker))
}

const outputOf = (got: GotFile): OutputFile => {
  if ('error' in got) return got
  const encoding = isUtf8(got.content) ? 'utf8' : 'base64'
  return {
    encoding,
    content: got.content.toString(encoding),
    sizeBytes: got.content.length,
    sha256: sha256(got.content),
  }
}

/** What is too large for the answer, as a blob. A quota that it does not fit in leaves it what it was. */
const keepLarge = async (
  agent: Agent,
  path: string,
  user: Place['user'],
  keep: NonNullable<BlobTransfer['keep']>,
  tooLarge: OutputFile,
  signal: AbortSignal,
): Promise<OutputFile> => {
  const content = streamFile(agent, { path, maxBytes: LIMITS.maxBlobBytes.value, user, signal })
  try {
    const { hash, sizeBytes } = await keep(content, signal)
    return { blob: hash, sizeBytes, sha256: hash }
  } catch (error) {
    const { code } = toBrambleError(error)
    if (code !== 'quota_exceeded' && code !== 'store_full') throw error
    return tooLarge
  }
}

/**
 * Reads the declared outputs, one after the other, so that the same ones fit every time: together they are at most
 * `maxOutputFilesBytes`. A sandbox that cannot be asked any more makes them `unreadable`.
 */
export const getOutputs = async (
  agent: Agent,
  paths: readonly string[],
  place: Place,
  { keep }: BlobTransfer,
  signal: AbortSignal,
): Promise<Record<string, OutputFile>> => {
  const unreadable = (): OutputFile => ({ error: 'unreadable' })
  const outputs: Record<string, OutputFile> = {}
  let leftBytes: number = LIMITS.maxOutputFilesBytes.value
  for (const path of paths) {
    const options = { path: posix.resolve(place.workdir, path), maxBytes: leftBytes, user: place.user, signal }
    let output = await getFile(agent, options).then(outputOf, unreadable)
    if (keep && 'error' in output && output.error === 'too_large')
      output = await keepLarge(agent, options.path, place.user, keep, output, signal).catch(unreadable)
    if ('content' in output) leftBytes -= output.sizeBytes
    outputs[path] = output
  }
  return outputs
}
