import type { BlobStore } from '@bramble/blobs'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'
import type { z } from 'zod'

/** A descriptor of a large tree has some megabytes. */
const MAX_JSON_BYTES = 64 * 1024 * 1024

/** A blob that is JSON of a form. Rejects with `blob_not_found`, `import_refused` for what is another thing, and the errors of stores. */
export const readJsonBlob = async <S extends z.ZodType>(
  blobs: BlobStore,
  hash: BlobHash,
  schema: S,
  options: Abortable = {},
): Promise<z.output<S>> => {
  const refused = (detail: string): BrambleError =>
    new BrambleError('import_refused', { detail: `the blob ${hash} is not what it is named as: ${detail}` })
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
  } catch {
    throw refused('it is not JSON')
  }
  const parsed = schema.safeParse(json)
  if (!parsed.success) throw refused(parsed.error.issues[0]?.message ?? 'it has another form')
  return parsed.data
}
