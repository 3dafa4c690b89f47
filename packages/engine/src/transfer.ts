import { isUtf8 } from 'node:buffer'
import { posix } from 'node:path'
import { type ExecutionSpec, LIMITS, type OutputFile } from '@bramble/protocol'
import { type Agent, type GotFile, getFile, putFile } from '@bramble/runtime'
import type { Place } from './command.ts'
import { sha256 } from './outcome.ts'

/** Files on their way into one sandbox at once. */
const PARALLEL_FILES = 8
const DEFAULT_MODE = 0o644

type Files = NonNullable<ExecutionSpec['files']>

const bytesOf = (file: Files[string]): Buffer => {
  if (typeof file === 'string') return Buffer.from(file)
  if ('content' in file) return Buffer.from(file.content)
  if ('base64' in file) return Buffer.from(file.base64, 'base64')
  throw new TypeError('a file from a blob reached the sandbox')
}

/** Writes the spec's files, as the command's user; relative paths begin in its directory. */
export const putFiles = async (agent: Agent, files: Files, place: Place, signal: AbortSignal): Promise<void> => {
  const queue = Object.entries(files)
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const [path, file] = next
      await putFile(agent, {
        path: posix.resolve(place.workdir, path),
        mode: (typeof file === 'object' ? file.mode : undefined) ?? DEFAULT_MODE,
        content: bytesOf(file),
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

/**
 * Reads the declared outputs, one after the other, so that the same ones fit every time: together they are at most
 * `maxOutputFilesBytes`. A sandbox that cannot be asked any more makes them `unreadable`.
 */
export const getOutputs = async (
  agent: Agent,
  paths: readonly string[],
  place: Place,
  signal: AbortSignal,
): Promise<Record<string, OutputFile>> => {
  const outputs: Record<string, OutputFile> = {}
  let leftBytes: number = LIMITS.maxOutputFilesBytes.value
  for (const path of paths) {
    const options = { path: posix.resolve(place.workdir, path), maxBytes: leftBytes, user: place.user, signal }
    const output = await getFile(agent, options).then(outputOf, (): OutputFile => ({ error: 'unreadable' }))
    if ('content' in output) leftBytes -= output.sizeBytes
    outputs[path] = output
  }
  return outputs
}
