import type { BlobStore } from '@bramble/blobs'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'
import type { z } from 'zod'

/** A content of the largest size has a descriptor of some megabytes; a memory image has a few files. */
const MAX_JSON_BYTES = 64 * 1024 * 1024

/** A blob that is JSON of a form. Rejects with `blob_not_found`, `import_refused` for what is another thing, and the errors of stores. */
export const readJsonBlob = async <S extends z.ZodType>(
  blobs: BlobStore,
  hash: BlobHash,
  schema: S,
  options: Abortable = {},
): Promise<z.output<S>> => {
  const refused = (detail: string, cause?: unknown): BrambleError =>
    new BrambleError('import_refused', { detail: `the blob ${hash} is not what it is named as: ${detail}`, cause })
  const stream = await blobs.get(hash, options)
  if (stream.info.sizeBytes > MAX_JSON_BYTES) {
    await stream[Symbol.asyncIterator]().return?.()
    throw refused('it is too large')
  }
  const pieces: Uint8Array[] = []
  for await (const piece of stream) pieces.push(piece)
  let json: unknown
  try {
    json = JSON.parse(Buffer.concat(pieces).toString())
  } catch (cause) {
    throw refused('it is not JSON', cause)
  }
  const parsed = schema.safeParse(json)
  if (!parsed.success) throw refused(parsed.error.issues[0]?.message ?? 'it has another form', parsed.error)
  return parsed.data
}

/** A value that is JSON of a form; undefined where it is another thing, or not there. */
export const parseJsonValue = <S extends z.ZodType>(
  value: Uint8Array | undefined,
  schema: S,
): z.output<S> | undefined => {
  if (!value) return undefined
  try {
    return schema.parse(JSON.parse(Buffer.from(value).toString()))
  } catch {
    return undefined
  }
}
