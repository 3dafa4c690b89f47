import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { imageView } from '@bramble/protocol'
import type { BuildDebianOptions, ImageSource, ImageStore } from '@bramble/runtime'
import type { Bramble, Image, ImageInput } from '@bramble/sdk'
import { type ConnectionOptions, clientOf, findNode } from '../connection.ts'
import { dataDirectory } from '../data-directory.ts'
import { lockDataDirectory } from '../node/data-directory-lock.ts'
import { imagesDirectory } from '../node/images-directory.ts'
import type { WorkProgress } from './show-work.ts'

export type PlaceOptions = ConnectionOptions

interface WorkOptions {
  readonly signal: AbortSignal
  readonly onProgress: (progress: WorkProgress) => void
}

/** Where the images are: on a node, over HTTP, or in the data directory of this host while no node runs on it. */
export interface ImagePlace extends AsyncDisposable {
  list(): Promise<Image[]>
  import(source: ImageInput, options: WorkOptions): Promise<Image>
  buildDebian(options: Omit<BuildDebianOptions, 'signal' | 'onProgress'> & WorkOptions): Promise<Image>
  remove(nameOrDigest: string, options: { signal: AbortSignal }): Promise<void>
}

export const openImagePlace = async (options: PlaceOptions): Promise<ImagePlace> => {
  const address = findNode(options)
  return address === undefined ? inDataDirectory() : onNode(await clientOf(address), address.local)
}

const inDataDirectory = async (): Promise<ImagePlace> => {
  const directory = dataDirectory()
  // Opening removes what a crash left, which could be what another process is writing.
  const lock = lockDataDirectory(directory)
  try {
    const { openImageStore, buildDebianImage } = await import('@bramble/runtime')
    const store = await openImageStore({ directory: imagesDirectory(directory) })
    return {
      list: async () => store.list().map(imageView),
      import: async (source, { signal, onProgress }) =>
        imageView(await store.import(localSource(source), { name: source.name, signal, onProgress })),
      buildDebian: async (build) => imageView(await buildDebianImage(store, build)),
      remove: (name) => store.remove(store.resolve(name).digest, { inUse: () => false }),
      [Symbol.asyncDispose]: async () => lock[Symbol.dispose](),
    }
  } catch (error) {
    lock[Symbol.dispose]()
    throw error
  }
}

const localSource = (source: ImageInput): ImageSource => {
  if ('reference' in source)
    return { kind: 'registry', reference: source.reference, insecure: source.insecure === true }
  if ('ociArchive' in source) return { kind: 'ociArchive', path: source.ociArchive }
  if ('ociLayout' in source) return { kind: 'ociLayout', path: source.ociLayout }
  if ('rootfsTar' in source) return { kind: 'rootfsTar', path: source.rootfsTar }
  return { kind: 'dockerDaemon', reference: source.dockerImage }
}

const onNode = (bramble: Bramble, local: boolean): ImagePlace => {
  const bringIn: ImagePlace['import'] = (source, options) => {
    // A path means the same only on the same host; to another one the archive is sent.
    if (!local && 'rootfsTar' in source) return upload(source.rootfsTar, 'rootfsTar', source.name, options)
    if (!local && 'ociArchive' in source) return upload(source.ociArchive, 'ociArchive', source.name, options)
    return bramble.images.import(source, options)
  }
  const upload = (
    path: string,
    format: 'rootfsTar' | 'ociArchive',
    name: string | undefined,
    options: WorkOptions,
  ): Promise<Image> => {
    const archive = Readable.toWeb(createReadStream(path)) as ReadableStream<Uint8Array>
    return bramble.images.upload(archive, { format, ...(name !== undefined && { name }) }, options)
  }
  return {
    list: () => bramble.images.list().all(),
    import: bringIn,
    buildDebian: async (build) => {
      const { buildDebianImage } = await import('@bramble/runtime')
      let made: Image | undefined
      await buildDebianImage(
        importOnly(async (path, name) => {
          made = await bringIn({ rootfsTar: path, name }, build)
          return made
        }),
        build,
      )
      if (made === undefined) throw new TypeError('the build ended without an import')
      return made
    },
    remove: (name, options) => bramble.images.remove(name, options),
    [Symbol.asyncDispose]: async () => undefined,
  }
}

/** The part of an image store that a build uses, with the images elsewhere. */
const importOnly = (bringIn: (path: string, name: string) => Promise<Image>): ImageStore => ({
  list: () => [],
  resolve: () => {
    throw new TypeError('the images are on the node')
  },
  import: async (source, options) => {
    if (source.kind !== 'rootfsTar') throw new TypeError(`a build does not import ${source.kind}`)
    return { ...(await bringIn(source.path, options?.name ?? 'debian')), rootfs: '' }
  },
  remove: () => Promise.reject(new TypeError('the images are on the node')),
})
