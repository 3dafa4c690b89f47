import { type CacheName, pageSchema, type Volume, volumeSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { escapeText } from './escape.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import type { Transport } from './transport.ts'

export interface VolumeInput {
  readonly name: string
  /** Default 1024. */
  readonly sizeMb?: number | undefined
  readonly labels?: Record<string, string> | undefined
}

/** Named volumes: directories that outlive the instances they are mounted in. */
export interface Volumes {
  list(query?: ListQuery): PagedList<Volume>
  get(name: string, options?: CallOptions): Promise<Volume>
  /** Of one that is there already, it sets the size and the labels. */
  create(input: VolumeInput, options?: CallOptions): Promise<Volume>
  /** With everything in it. `conflict` while an instance has it mounted. */
  delete(name: string, options?: CallOptions): Promise<void>
  /** Forgets what a dependency cache of the tenant holds. */
  clearCache(cache: CacheName, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/volumes'
const volumePage = pageSchema(volumeSchema).partial({ nextCursor: true })
const pathOf = (name: string): string => `${PATH}/${escapeText(name)}`

export const volumes = (transport: Transport): Volumes => ({
  list: (query = {}) => pagedList(transport, PATH, volumePage, {}, query),
  get: (name, options = {}) => transport.json({ method: 'GET', path: pathOf(name), ...options }, volumeSchema),
  create: ({ name, sizeMb, labels }, options = {}) =>
    transport.json({ method: 'PUT', path: pathOf(name), body: { sizeMb, labels }, ...options }, volumeSchema),
  delete: (name, options = {}) => transport.none({ method: 'DELETE', path: pathOf(name), ...options }),
  clearCache: (cache, options = {}) =>
    transport.none({ method: 'DELETE', path: `/api/v1/caches/${escapeText(cache)}`, ...options }),
})
