import { BrambleError } from '@bramble/protocol'
import type Docker from 'dockerode'
import { LAYER_LABEL, NODE_LABEL } from './container.ts'
import { statusOf, wordsOf } from './engine.ts'

/**
 * Seals as images of the engine. One of a sandbox is the image that its container was committed to; one that was written from
 * elsewhere is an image of nothing but the layer, until a sandbox continues from it: then it is made upon the sandbox's image.
 */
export interface SealImage {
  readonly id: string
  readonly tag: string
  /** `sandbox`: with the image below it. `import`: the layer alone. */
  readonly kind: 'sandbox' | 'import'
  /** Of the sandbox's image. */
  readonly digest: string
  /** Layers of the sandbox's image, which are the lowest. */
  readonly baseLayers: number
  readonly sizeBytes: number
}

const KIND_LABEL = 'dev.bramble.seal'
const DIGEST_LABEL = 'dev.bramble.image'
const BASE_LAYERS_LABEL = 'dev.bramble.base-layers'
const BASE_BYTES_LABEL = 'dev.bramble.base-bytes'
const NAME = /^[a-z0-9_]{1,63}$/
const GONE = [404, 409]

export interface SealEngine {
  readonly engine: Docker
  readonly node: string
}

export const assertSealName = (name: string): void => {
  if (!NAME.test(name)) throw new BrambleError('invalid_request', { detail: `${JSON.stringify(name)} names no seal` })
}

/** Of what was written, upon an image: one for each image that it was continued with. */
const upon = (digest: string): string => digest.replace('sha256:', '').slice(0, 12)
const repositoryOf = (node: string): string => `bramble/seal-${node}`
const uponRepositoryOf = (node: string): string => `bramble/upon-${node}`
export const sealTag = ({ node }: SealEngine, name: string): string => `${repositoryOf(node)}:${name}`
export const uponTag = ({ node }: SealEngine, name: string, digest: string): string =>
  `${uponRepositoryOf(node)}:${name}.${upon(digest)}`

const tagsOf = async ({ engine }: SealEngine, repository: string): Promise<string[]> => {
  const filters = { reference: [repository] }
  const tags = (await engine.listImages({ filters })).flatMap(({ RepoTags }) => RepoTags ?? [])
  return tags.flatMap((tag) => (tag.startsWith(`${repository}:`) ? [tag.slice(repository.length + 1)] : []))
}

export const listSealImages = (context: SealEngine): Promise<string[]> => tagsOf(context, repositoryOf(context.node))

/** The image with this tag, or undefined. */
export const findSealImage = async ({ engine }: SealEngine, tag: string): Promise<SealImage | undefined> => {
  const found = await engine
    .getImage(tag)
    .inspect()
    .catch((error: unknown) => {
      if (statusOf(error) === 404) return undefined
      throw unavailable(error)
    })
  if (!found) return undefined
  const labels = found.Config?.Labels ?? {}
  return {
    id: found.Id,
    tag,
    kind: labels[KIND_LABEL] === 'import' ? 'import' : 'sandbox',
    digest: labels[DIGEST_LABEL] ?? '',
    baseLayers: Number(labels[BASE_LAYERS_LABEL] ?? 0),
    sizeBytes: Math.max(0, found.Size - Number(labels[BASE_BYTES_LABEL] ?? 0)),
  }
}

/** Rejects with `not_found`. */
export const getSealImage = async (context: SealEngine, name: string): Promise<SealImage> => {
  assertSealName(name)
  const found = await findSealImage(context, sealTag(context, name))
  if (!found) throw new BrambleError('not_found', { detail: `there is no seal ${name} in this engine` })
  return found
}

/** The state of a container as an image; it stands still meanwhile. */
export const commitSeal = async (
  { engine, node }: SealEngine,
  container: Docker.Container,
  tag: string,
  digest: string,
): Promise<void> => {
  try {
    const { Image } = await container.inspect()
    const below = await engine.getImage(Image).inspect()
    const labels = below.Config?.Labels ?? {}
    const [repo, name] = tag.split(':')
    await container.commit({
      _query: { container: container.id, repo, tag: name, pause: true },
      _body: {
        Labels: {
          [NODE_LABEL]: node,
          // A container's labels are its image's, too.
          [LAYER_LABEL]: '',
          [KIND_LABEL]: 'sandbox',
          [DIGEST_LABEL]: digest,
          [BASE_LAYERS_LABEL]: labels[BASE_LAYERS_LABEL] ?? String(below.RootFS?.Layers?.length ?? 0),
          [BASE_BYTES_LABEL]: labels[BASE_BYTES_LABEL] ?? String(below.Size),
        },
      },
    })
  } catch (error) {
    throw unavailable(error)
  }
}

/** Labels of an image that has the layer alone, as `LABEL` of a Dockerfile has them. */
export const importLabels = ({ node }: SealEngine): string => `LABEL ${NODE_LABEL}=${node} ${KIND_LABEL}=import`

/** Takes the name away, and those of what was made from it; the bytes go when no sandbox has them below it any more. */
export const removeSealImages = async (context: SealEngine, name: string): Promise<void> => {
  assertSealName(name)
  const repository = uponRepositoryOf(context.node)
  const made = (await tagsOf(context, repository)).filter((tag) => tag.startsWith(`${name}.`))
  for (const tag of [...made.map((each) => `${repository}:${each}`), sealTag(context, name)]) {
    await context.engine
      .getImage(tag)
      .remove({ force: true })
      .catch((error: unknown) => {
        if (!GONE.includes(statusOf(error) ?? 0)) throw unavailable(error)
      })
  }
  await pruneSealImages(context)
}

/** Removes images without a name that nothing needs. */
export const pruneSealImages = async ({ engine, node }: SealEngine): Promise<void> => {
  const filters = { dangling: ['true'], label: [`${NODE_LABEL}=${node}`] }
  await engine.pruneImages({ filters: JSON.stringify(filters) }).catch((error: unknown) => {
    // Another one prunes already.
    if (statusOf(error) !== 409) throw unavailable(error)
  })
}

export const unavailable = (cause: unknown): unknown =>
  cause instanceof BrambleError
    ? cause
    : new BrambleError(/no space left/i.test(wordsOf(cause)) ? 'store_full' : 'store_unavailable', {
        detail: `the engine: ${wordsOf(cause)}`,
        cause,
      })
