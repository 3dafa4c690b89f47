import type { Engine } from '@bramble/engine'
import { BrambleError, toBrambleError } from '@bramble/protocol'

const DIGEST = /@(sha256:[0-9a-f]{64})$/
/** What names a registry, or a repository with a tag or digest: `host/name`, `name:tag`, `name@sha256:…`. */
const REFERENCE = /[/:@]/

const local = (engine: Engine, name: string): string | undefined => {
  try {
    return engine.images.resolve(name).digest
  } catch (error) {
    if (toBrambleError(error).code === 'image_not_found') return undefined
    throw error
  }
}

/**
 * The digest of the image that a lease names: one that is here, or one that its reference leads to at a registry. Throws
 * `image_not_found`, or what the import says; `image_invalid` where the registry has another image under that digest.
 */
export const imageOf = async (engine: Engine, image: string, signal: AbortSignal): Promise<string> => {
  const pinned = DIGEST.exec(image)?.[1]
  const here = local(engine, pinned ?? image)
  if (here !== undefined) return here
  if (image.startsWith('sha256:') || !REFERENCE.test(image))
    throw new BrambleError('image_not_found', { detail: `there is no image ${image} on this node` })
  const { digest } = await engine.images.import({ kind: 'registry', reference: image }, { signal })
  if (pinned === undefined || digest === pinned) return digest
  throw new BrambleError('image_invalid', { detail: `${image} led to ${digest}` })
}
