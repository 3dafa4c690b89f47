import { createHash } from 'node:crypto'
import { BrambleError } from '@bramble/protocol'
import { checkedEntries, exactly, refused } from '../seals/check-entries.ts'
import type { BytePath, LayerEntry, SealSource } from '../seals/seals.ts'
import { type DirectoryNode, type FakeFileSystem, type FileNode, type Node, SystemError } from './file-system.ts'
import { bytesOf, nameOf } from './names.ts'

/** What belongs to a sandbox's start, and is in no layer. */
const NOT_IN_LAYERS: ReadonlySet<BytePath> = new Set(['dev', '.bramble'])

const pathOf = (directory: BytePath, name: string): BytePath =>
  `${directory === '' ? '' : `${directory}/`}${bytesOf(name).toString('latin1')}`

const textOf = (path: BytePath): string => nameOf(Buffer.from(path, 'latin1'))

/** What `files` are other than those of `image`, in the order of the paths. */
export const layerEntries = (image: FakeFileSystem, files: FakeFileSystem): LayerEntry[] => {
  const entries: LayerEntry[] = []
  const walk = (directory: BytePath, before: DirectoryNode | undefined, now: DirectoryNode): void => {
    for (const name of new Set([...now.entries.keys(), ...(before?.entries.keys() ?? [])])) {
      const path = pathOf(directory, name)
      if (NOT_IN_LAYERS.has(path)) continue
      const old = before?.entries.get(name)
      const node = now.entries.get(name)
      if (!node) entries.push({ path, type: 'deleted' })
      else {
        const opaque = node.kind === 'directory' && old !== undefined && old.kind !== 'directory'
        if (!old || !sameNode(old, node)) entries.push(entryOf(path, node, opaque))
        if (node.kind === 'directory') walk(path, old?.kind === 'directory' ? old : undefined, node)
      }
    }
  }
  walk('', image.root, files.root)
  entries.sort((left, right) => (left.path < right.path ? -1 : 1))
  return namedOnce(files, entries)
}

/** Of the names of one file, the first is the file and the others are links to it. */
const namedOnce = (files: FakeFileSystem, entries: LayerEntry[]): LayerEntry[] => {
  const first = new Map<Node, BytePath>()
  return entries.map((entry) => {
    if (entry.type !== 'file') return entry
    const node = nodeAt(files, entry.path) ?? files.root
    const target = first.get(node)
    first.set(node, target ?? entry.path)
    return target === undefined ? entry : { path: entry.path, type: 'link', target }
  })
}

const sameNode = (old: Node, node: Node): boolean => {
  for (const key of ['kind', 'mode', 'uid', 'gid', 'modifiedNs'] as const) if (old[key] !== node[key]) return false
  if (old.kind === 'link' && node.kind === 'link') return old.target === node.target
  if (Object.keys(node.xattrs ?? {}).length > 0) return false
  return old.kind !== 'file' || node.kind !== 'file' || (node.links === old.links && contentOf(old) === contentOf(node))
}

const contentOf = (file: FileNode): string => {
  const hash = createHash('sha256')
  for (const chunk of file.chunks) hash.update(chunk)
  return hash.digest('hex')
}

const entryOf = (path: BytePath, node: Node, opaque: boolean): LayerEntry => {
  const { mode, uid, gid, modifiedNs, xattrs } = node
  const attributes = { path, mode, uid, gid, modifiedNs, ...(xattrs && { xattrs }) }
  switch (node.kind) {
    case 'file':
      return { type: 'file', ...attributes, sizeBytes: node.sizeBytes, version: contentOf(node) }
    case 'directory':
      return { type: 'directory', ...attributes, opaque }
    case 'link':
      return { type: 'symlink', ...attributes, target: bytesOf(node.target).toString('latin1') }
    case 'fifo':
      return { type: 'fifo', ...attributes }
    default:
      return node satisfies never
  }
}

const nodeAt = (files: FakeFileSystem, path: BytePath): Node | undefined => {
  let at: Node | undefined = files.root
  for (const name of textOf(path).split('/')) at = at?.kind === 'directory' ? at.entries.get(name) : undefined
  return at
}

/** The regular file at `path`, where it is other than the one of `image`. Throws `file_not_found`. */
export const fileAt = (image: FakeFileSystem, files: FakeFileSystem, path: BytePath): FileNode => {
  const node = nodeAt(files, path)
  const old = nodeAt(image, path)
  if (node?.kind === 'file' && !(old && sameNode(old, node))) return node
  throw new BrambleError('file_not_found', { detail: `there is no file ${JSON.stringify(textOf(path))} in the seal` })
}

/** Makes the changes that `source` tells to `files`, those of the image. Throws `import_refused`. */
export const applyLayer = async (files: FakeFileSystem, source: SealSource, signal?: AbortSignal): Promise<void> => {
  const times: { node: Node; modifiedNs: bigint }[] = []
  files.maxBytes = files.usedBytes + source.diskBytes
  for await (const entry of checkedEntries(source.entries)) {
    signal?.throwIfAborted()
    const { path } = entry
    const parent = parentOf(files, path)
    const { modifiedNs } = parent
    try {
      const node = await put(files, parent, entry, source, signal)
      if (node && entry.type !== 'deleted' && entry.type !== 'link') {
        Object.assign(node, { mode: entry.mode, uid: entry.uid, gid: entry.gid, xattrs: entry.xattrs })
        times.push({ node, modifiedNs: entry.modifiedNs })
      }
    } catch (error) {
      throw error instanceof SystemError ? refused(path, error.message) : error
    }
    parent.modifiedNs = modifiedNs
  }
  for (const { node, modifiedNs } of times) node.modifiedNs = modifiedNs
}

/** The directory that `path` is in, with no link on the way. */
const parentOf = (files: FakeFileSystem, path: BytePath): DirectoryNode => {
  let at = files.root
  for (const name of textOf(path).split('/').slice(0, -1)) {
    const next = at.entries.get(name)
    if (next?.kind !== 'directory') throw refused(path, 'what it is in is not a directory')
    at = next
  }
  return at
}

const put = async (
  files: FakeFileSystem,
  parent: DirectoryNode,
  entry: LayerEntry,
  source: SealSource,
  signal: AbortSignal | undefined,
): Promise<Node | undefined> => {
  const path = `/${textOf(entry.path)}`
  const old = parent.entries.get(path.slice(path.lastIndexOf('/') + 1))
  const owned = { mode: 0o600, uid: 0, gid: 0 }
  const stays = entry.type === 'directory' && old?.kind === 'directory'
  if (old && !stays) files.remove(path, { uid: 0, gids: [0] }, true)
  switch (entry.type) {
    case 'deleted':
      return undefined
    case 'directory':
      if (!stays) return files.make(path, { kind: 'directory', ...owned, entries: new Map() })
      if (entry.opaque)
        for (const name of [...old.entries.keys()]) files.remove(`${path}/${name}`, { uid: 0, gids: [0] }, true)
      return old
    case 'symlink':
      return files.make(path, { kind: 'link', ...owned, target: textOf(entry.target) })
    case 'fifo':
      return files.make(path, { kind: 'fifo', ...owned })
    case 'link':
      files.link(`/${textOf(entry.target)}`, path, { uid: 0, gids: [0] })
      return undefined
    case 'file': {
      // A program of the image whose attributes were changed is one still.
      const program = old?.kind === 'file' && entry.sizeBytes === 0 ? old.program : undefined
      const file = files.make(path, {
        kind: 'file',
        ...owned,
        chunks: [],
        sizeBytes: 0,
        ...(program !== undefined && { program }),
      })
      if (file.kind !== 'file') throw new SystemError('EINVAL')
      for await (const chunk of exactly(entry.path, entry.sizeBytes, source.read(entry.path))) {
        signal?.throwIfAborted()
        files.append(file, Buffer.from(chunk))
      }
      return file
    }
    default:
      return entry satisfies never
  }
}

/** Without what belongs to a sandbox's start: that of `image` in its place. */
export const withFreshDevices = (files: FakeFileSystem, image: FakeFileSystem): FakeFileSystem => {
  for (const name of NOT_IN_LAYERS) {
    const fresh = image.root.entries.get(name)
    if (fresh) files.root.entries.set(name, fresh)
  }
  return files
}
