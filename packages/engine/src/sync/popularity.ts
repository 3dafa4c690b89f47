import type { BlobStore } from '@bramble/blobs'
import { blobHashSchema } from '@bramble/protocol'
import { z } from 'zod'

/** Things told apart by a key, of which many come up once and few again and again. */
const COUNTED_MAX = 20_000
const ANNOUNCED_MAX = { blobs: 500, names: 500, images: 50 } as const
const KINDS = ['blobs', 'names', 'images'] as const
type Kind = (typeof KINDS)[number]
/** With each announcement: what is not used any more is forgotten in half a day. */
const DECAY = 0.999
const COUNT_MIN = 0.5

const countSchema = z.number().min(0).max(Number.MAX_SAFE_INTEGER)
const announcementSchema = z.strictObject({
  version: z.literal(1),
  blobs: z.array(z.tuple([blobHashSchema, countSchema])).max(ANNOUNCED_MAX.blobs),
  names: z.array(z.tuple([z.string().max(512), countSchema])).max(ANNOUNCED_MAX.names),
  images: z.array(z.tuple([z.string().regex(/^sha256:[0-9a-f]{64}$/), countSchema])).max(ANNOUNCED_MAX.images),
})
/** What one node uses most, with how often, the most used first. */
export type Announcement = z.infer<typeof announcementSchema>

export const parseAnnouncement = (value: Uint8Array): Announcement | undefined => {
  try {
    return announcementSchema.parse(JSON.parse(Buffer.from(value).toString()))
  } catch {
    return undefined
  }
}

/** How often this node used what. */
export interface Popularity {
  used(kind: Kind, key: string): void
  /** Counts that were announced before count on. */
  remember(announcement: Announcement): void
  /** Changes with every use. */
  readonly uses: number
  announcement(): Announcement
}

export const openPopularity = (): Popularity => {
  const counts = {
    blobs: new Map<string, number>(),
    names: new Map<string, number>(),
    images: new Map<string, number>(),
  }
  let uses = 0
  const add = (kind: Kind, key: string, count: number): void => {
    const map = counts[kind]
    const before = map.get(key) ?? 0
    // What was used just now is at the end; what was not for long goes first.
    map.delete(key)
    map.set(key, before + count)
    const [oldest] = map.keys()
    if (map.size > COUNTED_MAX && oldest !== undefined) map.delete(oldest)
  }
  const top = (kind: Kind): [string, number][] => {
    const map = counts[kind]
    for (const [key, count] of map) {
      if (count * DECAY < COUNT_MIN) map.delete(key)
      else map.set(key, count * DECAY)
    }
    return [...map].sort((left, right) => right[1] - left[1]).slice(0, ANNOUNCED_MAX[kind])
  }
  return {
    used: (kind, key) => {
      uses++
      add(kind, key, 1)
    },
    remember: (announcement) => {
      for (const kind of KINDS) for (const [key, count] of announcement[kind]) add(kind, key, count)
    },
    get uses() {
      return uses
    },
    announcement: () =>
      announcementSchema.parse({ version: 1, blobs: top('blobs'), names: top('names'), images: top('images') }),
  }
}

/** Sums of what nodes announced, the most used first. */
export const mostUsed = (announcements: readonly Announcement[], kind: Kind): string[] => {
  const sums = new Map<string, number>()
  for (const announcement of announcements)
    for (const [key, count] of announcement[kind]) sums.set(key, (sums.get(key) ?? 0) + count)
  return [...sums].sort((left, right) => right[1] - left[1]).map(([key]) => key)
}

/** Names that other nodes gain from having, before they are asked for. */
const SHARED_NAMES = /^results\//

/** The store, with a count of what is read and named in it. */
export const countUses = (store: BlobStore, popularity: Popularity): BlobStore => {
  const count = (name: string): void => {
    if (SHARED_NAMES.test(name)) popularity.used('names', name)
  }
  return {
    ...store,
    get: (hash, options) => {
      if (options?.range === undefined) popularity.used('blobs', hash)
      return store.get(hash, options)
    },
    names: {
      ...store.names,
      get: (name, options) => {
        count(name)
        return store.names.get(name, options)
      },
      set: (name, value, options) => {
        count(name)
        return store.names.set(name, value, options)
      },
    },
  }
}
