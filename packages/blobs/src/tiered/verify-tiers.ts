import type { BlobHash } from '@bramble/protocol'
import type { Abortable, BlobStore, Verification } from '../blob-store.ts'
import type { TieredContext } from './context.ts'
import { codeOf, type FetchBlob, openShared } from './fetch-blob.ts'

/** Reads everything of the local tier, and its copies in the shared one. Rejects with `store_unavailable` where that ends it. */
export const verifyTiers = async (
  context: TieredContext,
  fetch: FetchBlob,
  { signal }: Abortable,
): Promise<Verification> => {
  const { local, queue, observe, uploaded, kick } = context
  const healedLocal: BlobHash[] = []
  const healedShared: BlobHash[] = []
  const lost: BlobHash[] = []
  let blobs = 0
  for await (const { hash, storedBytes } of local.list({ signal })) {
    blobs++
    const here = await stateOf(() => local.get(hash, { signal }))
    if (here === 'absent') continue
    if (here === 'damaged') {
      const healed = await fetch(hash).then(
        () => true,
        (thrown: unknown) => {
          if (!GONE.includes(codeOf(thrown))) throw thrown
          return false
        },
      )
      if (!healed) {
        lost.push(hash)
        observe({ kind: 'lost', what: hash, reason: 'it is damaged here, and the shared tier has no good copy' })
        continue
      }
      healedLocal.push(hash)
      observe({ kind: 'healed', tier: 'local', what: hash })
      continue
    }
    if (queue.get('blob', hash)) continue
    if ((await stateOf(() => openShared(context, hash, signal))) === 'good') continue
    uploaded.delete(hash)
    healedShared.push(hash)
    observe({ kind: 'healed', tier: 'shared', what: hash })
    await queue.add({ kind: 'blob', target: hash, does: 'put' }, storedBytes)
    kick()
  }
  return { blobs, healedLocal, healedShared, lost }
}

const GONE: readonly (string | undefined)[] = ['blob_not_found', 'blob_corrupt']

const stateOf = async (open: () => ReturnType<BlobStore['get']>): Promise<'good' | 'damaged' | 'absent'> => {
  try {
    for await (const _piece of await open());
    return 'good'
  } catch (thrown) {
    if (codeOf(thrown) === 'blob_corrupt') return 'damaged'
    if (codeOf(thrown) === 'blob_not_found') return 'absent'
    throw thrown
  }
}
