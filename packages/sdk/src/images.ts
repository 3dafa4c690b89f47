import {
  BrambleError,
  type Image,
  type ImageImport,
  type ImageImportEvent,
  type ImageUploadQuery,
  imageImportEventSchema,
  imageSchema,
  pageSchema,
} from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import { endedEarly } from './result-stream.ts'
import { type Content, checked, parseJson, type Request, type Transport } from './transport.ts'

type Loose<T> = T extends { insecure: boolean } ? Omit<T, 'insecure'> & { insecure?: boolean } : T

/** Where an image comes from. Paths are of the node's host. All of it needs a key with the scope `admin`. */
export type ImageInput = Loose<ImageImport>

export type ImageProgress = Extract<ImageImportEvent, { type: 'progress' }>

export interface ImportOptions extends CallOptions {
  readonly onProgress?: ((progress: ImageProgress) => void) | undefined
}

/** The images of a node. */
export interface Images {
  list(query?: ListQuery): PagedList<Image>
  /** Brings an image in and resolves when it can be used. Aborting leaves nothing behind. */
  import(input: ImageInput, options?: ImportOptions): Promise<Image>
  /** The same with an archive of the caller's: its bytes, or a stream of them. Sent once, never again. */
  upload(archive: Content, query: Partial<ImageUploadQuery>, options?: ImportOptions): Promise<Image>
  /** By digest, or by a name of this node. `image_in_use` while a sandbox runs on it. */
  remove(digestOrName: string, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/images'
const imagePage = pageSchema(imageSchema).partial({ nextCursor: true })

/** Reads the progress of an import to its end. The events keep the connection alive, however long it takes. */
const follow = async (transport: Transport, request: Request, options: ImportOptions): Promise<Image> => {
  const { onProgress, ...call } = options
  for await (const messages of transport.stream({ requestTimeoutMs: 0, ...request, ...call })) {
    for (const { data } of messages) {
      const event = checked(imageImportEventSchema, parseJson(data, PATH), PATH)
      if (event.type === 'error') throw BrambleError.fromProblem(event.error)
      if (event.type === 'image') return event.image
      onProgress?.(event)
    }
  }
  throw endedEarly()
}

const digestOf = async (transport: Transport, name: string, options: CallOptions): Promise<string> => {
  if (name.startsWith('sha256:')) return name
  const bare = name.includes(':') ? name : `${name}:latest`
  for await (const image of pagedList(transport, PATH, imagePage, {}, options))
    if (image.names.includes(name) || image.names.includes(bare) || image.digest.startsWith(`sha256:${name}`))
      return image.digest
  throw new BrambleError('image_not_found', { detail: `there is no image ${JSON.stringify(name)}` })
}

export const images = (transport: Transport): Images => ({
  list: (query = {}) => pagedList(transport, PATH, imagePage, {}, query),
  import: (input, options = {}) =>
    follow(transport, { method: 'POST', path: PATH, body: input, repeatable: true }, options),
  upload: (archive, query, options = {}) =>
    follow(transport, { method: 'POST', path: PATH, query, content: archive, repeatable: false }, options),
  remove: async (digestOrName, options = {}) => {
    const digest = await digestOf(transport, digestOrName, options)
    await transport.none({ method: 'DELETE', path: `${PATH}/${encodeURIComponent(digest)}`, ...options })
  },
})
