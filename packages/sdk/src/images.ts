import { type Image, type ImageImport, imageSchema, pageSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import type { Transport } from './transport.ts'

type Loose<T> = T extends { insecure: boolean } ? Omit<T, 'insecure'> & { insecure?: boolean } : T

/** Where an image comes from. Paths are of the node's host, and need a key with the scope `admin`. */
export type ImageInput = Loose<ImageImport>

/** The images of a node. */
export interface Images {
  list(query?: ListQuery): PagedList<Image>
  /** Brings an image in and resolves when it can be used. */
  import(input: ImageInput, options?: CallOptions): Promise<Image>
  /** By digest or name. `image_in_use` while a sandbox runs on it. */
  remove(digest: string, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/images'
const imagePage = pageSchema(imageSchema).partial({ nextCursor: true })

export const images = (transport: Transport): Images => ({
  list: (query = {}) => pagedList(transport, PATH, imagePage, {}, query),
  import: (input, options = {}) =>
    transport.json({ method: 'POST', path: PATH, body: input, requestTimeoutMs: 0, ...options }, imageSchema),
  remove: (digest, options = {}) =>
    transport.none({ method: 'DELETE', path: `${PATH}/${encodeURIComponent(digest)}`, ...options }),
})
