import { BrambleError } from '@bramble/protocol'
import type { LocalImage } from './image-store.ts'

const MIN_PREFIX_HEX = 8
const HEX_PREFIX = new RegExp(`^(?:sha256:)?([0-9a-f]{${MIN_PREFIX_HEX},64})$`)

/** What is known of an image beside its names. */
export type StoredImage = Omit<LocalImage, 'names'>

/** Images and names in memory. Every change is whole at once. */
export interface ImageIndex {
  get(digest: string): LocalImage | undefined
  resolve(nameOrDigest: string): LocalImage
  list(): LocalImage[]
  put(image: StoredImage): void
  setName(name: string, digest: string): void
  delete(digest: string): void
  /** Names and what they lead to, sorted, as they are kept on disk. */
  names(): Record<string, string>
}

export const imageIndex = (): ImageIndex => {
  const images = new Map<string, StoredImage>()
  const names = new Map<string, string>()

  const withNames = (image: StoredImage): LocalImage => ({
    ...image,
    names: [...names]
      .filter(([, digest]) => digest === image.digest)
      .map(([name]) => name)
      .sort(),
  })
  const get = (digest: string | undefined): LocalImage | undefined => {
    const image = digest === undefined ? undefined : images.get(digest)
    return image && withNames(image)
  }
  const notFound = (what: string) => new BrambleError('image_not_found', { detail: `there is no image ${what}` })

  return {
    get,
    resolve(nameOrDigest) {
      const exact = get(names.get(nameOrDigest)) ?? get(nameOrDigest)
      if (exact) return exact
      const shown = JSON.stringify(nameOrDigest.slice(0, 200))
      const prefix = HEX_PREFIX.exec(nameOrDigest)?.[1]
      if (prefix === undefined) throw notFound(shown)
      const matches = [...images.keys()].filter((digest) => digest.startsWith(`sha256:${prefix}`))
      if (matches.length > 1) throw notFound(`that ${shown} alone means; ${matches.length} digests begin so`)
      const found = get(matches[0])
      if (!found) throw notFound(shown)
      return found
    },
    list() {
      // '~' comes after every character of a name.
      const key = (image: LocalImage) => image.names[0] ?? `~${image.digest}`
      return [...images.values()].map(withNames).sort((a, b) => (key(a) < key(b) ? -1 : 1))
    },
    put(image) {
      images.set(image.digest, image)
    },
    setName(name, digest) {
      if (!images.has(digest)) throw notFound(digest)
      names.set(name, digest)
    },
    delete(digest) {
      images.delete(digest)
      for (const [name, target] of names) if (target === digest) names.delete(name)
    },
    names: () => Object.fromEntries([...names].sort(([a], [b]) => (a < b ? -1 : 1))),
  }
}
