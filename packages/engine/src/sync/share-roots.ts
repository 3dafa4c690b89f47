import type { BlobStore } from '@bramble/blobs'
import { type BlobHash, BrambleError, blobHashSchema } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'

export const ROOT_NAMES = 'roots/'
const HASH_CHARS = 64
const PIECE_HASHES = 4096

/**
 * Tells the shared tier which blobs this node needs that no name there leads to: those that its tenants put. Their hashes, 65
 * characters each, are a blob of their own, which `roots/<node>` names. It counts until the name is removed.
 */
export const shareRoots = async (
  blobs: BlobStore,
  node: string,
  roots: AsyncIterable<BlobHash>,
  { signal }: Abortable = {},
): Promise<void> => {
  async function* lines(): AsyncGenerator<Uint8Array, void, undefined> {
    let piece: string[] = []
    for await (const hash of roots) {
      piece.push(hash)
      if (piece.length < PIECE_HASHES) continue
      yield Buffer.from(`${piece.join('\n')}\n`)
      piece = []
    }
    if (piece.length > 0) yield Buffer.from(`${piece.join('\n')}\n`)
  }
  const { hash } = await blobs.put(lines(), { signal, temperature: 'cold' })
  const name = `${ROOT_NAMES}${node}`
  const before = await blobs.names.get(name, { signal })
  if (before && Buffer.from(before).toString() === hash) return
  await blobs.names.set(name, Buffer.from(hash), { signal })
}

/** What a node told: its list first. Rejects where the list is not there or damaged: then nobody knows what it needs. */
export async function* sharedRoots(
  blobs: BlobStore,
  name: string,
  options: Abortable = {},
): AsyncGenerator<BlobHash, void, undefined> {
  const value = await blobs.names.get(name, options)
  if (!value) return
  const list = blobHashSchema.parse(Buffer.from(value).toString())
  yield list
  let rest = ''
  for await (const piece of await blobs.get(list, options)) {
    rest += Buffer.from(piece).toString('latin1')
    let at = 0
    for (; at + HASH_CHARS < rest.length; at += HASH_CHARS + 1)
      yield blobHashSchema.parse(rest.slice(at, at + HASH_CHARS))
    rest = rest.slice(at)
  }
  if (rest !== '')
    throw new BrambleError('blob_corrupt', { detail: `${name} leads to ${list}, which is no list of hashes` })
}
