import { createHash } from 'node:crypto'
import { type BlobHash, LIMITS, type TreeEntry } from '@bramble/protocol'
import type { ImageFile, MergeFiles } from './merge.ts'
import { formWithTarget, type PathKey } from './tree-path.ts'
import type { FileNode, Node } from './tree-table.ts'

export interface ImageNodes {
  /** What the image has at a path, in the form of a line whose content has no pieces; `null`: nothing. */
  node(key: PathKey): Promise<Node | null>
  /** The image's file that a content of `node` stands for; undefined: the content is a tree's, and has pieces. */
  fileOf(content: FileNode['content']): ImageFile | undefined
  exists(key: PathKey): Promise<boolean>
  /** Empty where the image has no directory there. */
  names(key: PathKey): Promise<PathKey[]>
}

const maxKeptNodes = 4096

export const openImageNodes = (image: MergeFiles['image']): ImageNodes => {
  const kept = new Map<PathKey, Promise<Node | null>>()
  const files = new WeakMap<FileNode['content'], ImageFile>()
  const file = (key: PathKey): Promise<ImageFile | undefined> => image(Buffer.from(key, 'latin1'))
  const read = async (key: PathKey): Promise<Node | null> => {
    const found = await file(key)
    if (found === undefined) return null
    const node = await nodeOf(key, found)
    if (node.type === 'file') files.set(node.content, found)
    return node
  }
  return {
    fileOf: (content) => files.get(content),
    node(key) {
      const known = kept.get(key)
      if (known !== undefined) return known
      if (kept.size >= maxKeptNodes) kept.clear()
      const asked = read(key)
      kept.set(key, asked)
      return asked
    },
    exists: async (key) => (await file(key)) !== undefined,
    async names(key) {
      const found = await file(key)
      return found?.type === 'directory' ? (await found.names()).map((name) => name.toString('latin1')) : []
    },
  }
}

const nodeOf = async (key: PathKey, file: ImageFile): Promise<Node> => {
  const { mode, uid, gid, modifiedNs, sizeBytes, xattrs } = file
  const attributes = { mode, uid, gid, modifiedNs, ...(xattrs && { xattrs: { ...xattrs } }) }
  const target = file.target?.toString('latin1') ?? ''
  if (file.type === 'directory') return { type: 'directory', path: key, ...attributes }
  if (file.type === 'symlink') return { type: 'symlink', ...formWithTarget(key, target), ...attributes }
  // What cannot be in a tree (a device) is at least other than a file.
  if (file.type !== 'file') return { type: 'fifo', path: key, ...attributes }
  const sha256 = sizeBytes <= LIMITS.maxMergeTextBytes.value ? sha256Of(await file.read()) : ('' as BlobHash)
  return { type: 'file', path: key, ...attributes, content: { sizeBytes, sha256, pieces: [] } } satisfies TreeEntry
}

const sha256Of = (bytes: Uint8Array): BlobHash => createHash('sha256').update(bytes).digest('hex') as BlobHash
