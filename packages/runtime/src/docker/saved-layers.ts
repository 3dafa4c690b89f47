import { posix } from 'node:path'
import { pipeline, Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { BrambleError, LIMITS } from '@bramble/protocol'
import { readTar, type TarEntry } from '../images/read-tar.ts'
import type { BytePath, LayerEntry } from '../seals/seals.ts'
import { decodeLayerEntry, type LayerFile, type LayerItem } from './layer-tar.ts'

const MAX_JSON_BYTES = 16 * 1024 * 1024
/** What the engine puts there, or the agent's. */
const NOT_IN_LAYERS: ReadonlySet<BytePath> = new Set(['.bramble', '.dockerenv', 'dev', 'proc', 'sys'])

/**
 * What the layers of a saved image (`GET /images/NAME/get`) above the `baseLayers` lowest say of every path, in the order of
 * the paths' bytes. Those below are read, too: the engine gives all or nothing.
 */
export const readSavedLayers = async (
  saved: AsyncIterable<Buffer>,
  baseLayers: number,
  signal?: AbortSignal,
): Promise<LayerEntry[]> => {
  const layers = new Map<string, LayerItem[]>()
  const documents = new Map<string, unknown>()
  const aliases = new Map<string, string>()
  for await (const file of readTar(saved)) {
    signal?.throwIfAborted()
    if (file.type === 'symlink') aliases.set(file.name, posix.join(posix.dirname(file.name), file.linkName))
    if (file.type !== 'file') continue
    const body = await peek(file.body)
    const isDocument = body.first.toString('latin1', 0, 1) === '{' || file.name === 'manifest.json'
    if (isDocument) documents.set(file.name, await readJson(body))
    else if (file.name.endsWith('/layer.tar') || file.name.startsWith('blobs/'))
      layers.set(file.name, await itemsOf(unpacked(body), file.name, signal))
  }
  const [{ Config = '', Layers = [] } = {}] = (documents.get('manifest.json') ?? []) as Manifest[]
  const config = documents.get(Config) as { rootfs?: { diff_ids?: string[] } } | undefined
  const ids = config?.rootfs?.diff_ids ?? []
  const stack = Layers.map((name, index) => {
    const items = layers.get(name) ?? layers.get(aliases.get(name) ?? '')
    if (!items) throw unreadable(`the layer ${name} is missing`)
    return { items, id: ids[index] ?? name }
  })
  const own = fold(stack.slice(baseLayers))
  // What nothing is below hides nothing. Of a layer alone, nobody knows what will be.
  if (baseLayers > 0) forgetNothing(own, fold(stack.slice(0, baseLayers)))
  return entriesOf(own)
}

/** What a later layer of the sandbox took back of an earlier one, the image never had. */
const forgetNothing = (own: Map<BytePath, Named>, image: ReadonlyMap<BytePath, Named>): void => {
  for (const [path, named] of own) {
    const below = image.get(path)
    const has = below !== undefined && below !== 'deleted'
    if (named === 'deleted' && !has) own.delete(path)
    if (named !== 'deleted' && named.file.type === 'directory' && named.file.opaque && !has)
      own.set(path, { file: { ...named.file, opaque: false } })
  }
}

interface Manifest {
  Config?: string
  Layers?: string[]
}

interface Peeked {
  readonly first: Buffer
  readonly all: AsyncIterable<Buffer>
}

const unreadable = (detail: string): BrambleError =>
  new BrambleError('store_unavailable', { detail: `the engine gave an image that cannot be read: ${detail}` })

const peek = async (source: AsyncIterable<Buffer>): Promise<Peeked> => {
  const chunks = source[Symbol.asyncIterator]()
  const first = await chunks.next()
  const head = first.done ? Buffer.alloc(0) : first.value
  async function* all(): AsyncGenerator<Buffer> {
    if (head.length > 0) yield head
    for (;;) {
      const next = await chunks.next()
      if (next.done) return
      yield next.value
    }
  }
  return { first: head, all: all() }
}

const readJson = async ({ all }: Peeked): Promise<unknown> => {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of all) {
    bytes += chunk.length
    if (bytes > MAX_JSON_BYTES) throw unreadable('a document is too large')
    chunks.push(chunk)
  }
  return JSON.parse(Buffer.concat(chunks).toString())
}

const unpacked = ({ first, all }: Peeked): AsyncIterable<Buffer> => {
  if (first[0] !== 0x1f || first[1] !== 0x8b) return all
  const plain = createGunzip()
  pipeline(Readable.from(all), plain, () => {})
  return plain
}

const itemsOf = async (source: AsyncIterable<Buffer>, version: string, signal?: AbortSignal): Promise<LayerItem[]> => {
  const items: LayerItem[] = []
  for await (const entry of readTar(source)) {
    signal?.throwIfAborted()
    const item = itemOf(entry, version)
    if (item) items.push(item)
    if (items.length > LIMITS.maxSnapshotEntries.value)
      throw new BrambleError('unsupported', { detail: `it has more than ${items.length - 1} files` })
  }
  return items
}

const itemOf = (entry: TarEntry, version: string): LayerItem | undefined => {
  const item = decodeLayerEntry(entry, version)
  return item && NOT_IN_LAYERS.has(item.path.split('/', 1)[0] ?? '') ? undefined : item
}

/** `file`: the one that it is a name of; names of one file share it. */
type Named = { readonly file: LayerFile } | 'deleted'

/** One layer upon another. */
const fold = (layers: readonly { items: readonly LayerItem[]; id: string }[]): Map<BytePath, Named> => {
  const paths = new Map<BytePath, Named>()
  for (const { items, id } of layers) {
    const opaque = new Set(items.flatMap((item) => (item.type === 'opaque' ? [item.path] : [])))
    const hidden = new Set(
      items.flatMap((item) => (item.type === 'directory' || item.type === 'opaque' ? [] : [item.path])),
    )
    for (const path of [...paths.keys()]) if (isHidden(path, hidden, opaque)) paths.delete(path)
    for (const item of items) {
      const named = item.type !== 'opaque' && nameOf(item, id, paths, opaque)
      if (named) paths.set(item.path, named)
    }
  }
  return paths
}

const nameOf = (
  item: Exclude<LayerItem, { type: 'opaque' }>,
  id: string,
  paths: ReadonlyMap<BytePath, Named>,
  opaque: ReadonlySet<BytePath>,
): Named => {
  const before = paths.get(item.path)
  switch (item.type) {
    case 'hides':
      return 'deleted'
    case 'link':
      return targetOf(paths, item)
    case 'file':
      return { file: { ...item, version: id } }
    case 'directory': {
      const was = before === 'deleted' || (before?.file.type === 'directory' && before.file.opaque)
      return { file: { ...item, opaque: was || opaque.has(item.path) } }
    }
    default:
      return { file: item }
  }
}

const isHidden = (path: BytePath, hidden: ReadonlySet<BytePath>, opaque: ReadonlySet<BytePath>): boolean => {
  for (let at = path.indexOf('/'); at > 0; at = path.indexOf('/', at + 1)) {
    const parent = path.slice(0, at)
    if (hidden.has(parent) || opaque.has(parent)) return true
  }
  return false
}

const targetOf = (
  paths: ReadonlyMap<BytePath, Named>,
  { path, target }: { path: BytePath; target: BytePath },
): Named => {
  const found = paths.get(target)
  if (!found || found === 'deleted') throw unreadable(`${JSON.stringify(path)} is a link to nothing`)
  return found
}

const entriesOf = (paths: ReadonlyMap<BytePath, Named>): LayerEntry[] => {
  const first = new Map<LayerFile, BytePath>()
  return [...paths]
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([path, named]) => {
      if (named === 'deleted') return { path, type: 'deleted' }
      const target = first.get(named.file)
      if (target !== undefined) return { path, type: 'link', target }
      first.set(named.file, path)
      return { ...named.file, path }
    })
}
