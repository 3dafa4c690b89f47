import { createHash } from 'node:crypto'
import type { BlobHash, TreeEntry } from '@bramble/protocol'
import type { ImageFile, MergeFiles } from '../merge.ts'

/** A file system written out in full: what a tree and its image come to. Paths are ASCII. */
export type Full = ReadonlyMap<string, Thing>

export interface Thing {
  readonly type: 'file' | 'directory' | 'symlink' | 'fifo'
  /** Bytes of a file, target of a symlink. */
  readonly text: string
  readonly mode: number
  readonly uid: number
  readonly modifiedNs: string
  readonly xattrs?: Record<string, string>
  /** Files with the same number are one. */
  readonly inode?: number
}

export const file = (text: string, more: Partial<Thing> = {}): Thing => ({
  type: 'file',
  text,
  mode: 0o644,
  uid: 0,
  modifiedNs: '1',
  ...more,
})
export const directory = (more: Partial<Thing> = {}): Thing => ({
  ...file('', more),
  type: 'directory',
  mode: more.mode ?? 0o755,
})
export const symlink = (target: string, more: Partial<Thing> = {}): Thing => ({
  ...file(target, more),
  type: 'symlink',
  mode: 0o777,
})

const parent = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')))

/** With the directories that are missing. */
export const full = (things: Record<string, Thing | string>): Map<string, Thing> => {
  const all = new Map<string, Thing>()
  for (const [path, thing] of Object.entries(things)) {
    for (let above = parent(path); above !== ''; above = parent(above)) if (!all.has(above)) all.set(above, directory())
    all.set(path, typeof thing === 'string' ? file(thing) : thing)
  }
  return all
}

/** What a file system becomes: `null` removes a path, and what is below it. */
export const changed = (before: Full, changes: Record<string, Thing | string | null>): Map<string, Thing> => {
  const all = new Map(before)
  for (const [path, thing] of Object.entries(changes)) {
    if (
      thing === null ||
      (typeof thing !== 'string' && thing.type !== 'directory') ||
      all.get(path)?.type === 'directory'
    )
      for (const other of [...all.keys()])
        if (other.startsWith(`${path}/`) && typeof thing !== 'string') all.delete(other)
    if (thing === null) all.delete(path)
    else for (const [name, one] of full({ [path]: thing })) if (name === path || !all.has(name)) all.set(name, one)
  }
  return all
}

export const sha = (bytes: string | Uint8Array): BlobHash =>
  createHash('sha256').update(bytes).digest('hex') as BlobHash

/** Contents by their hash. */
export class Contents {
  readonly #bytes = new Map<string, Buffer>()

  add(text: string | Uint8Array): Extract<TreeEntry, { type: 'file' }>['content'] {
    const bytes = Buffer.from(text as string, 'latin1')
    const sha256 = sha(bytes)
    this.#bytes.set(sha256, bytes)
    const pieces = bytes.length === 0 ? [] : [{ blob: sha256, sizeBytes: bytes.length }]
    return { sizeBytes: bytes.length, sha256, pieces }
  }

  read(hash: string): Buffer {
    const bytes = this.#bytes.get(hash)
    if (bytes === undefined) throw new Error(`there is no content ${hash}`)
    return bytes
  }
}

const entryOf = (path: string, thing: Thing, contents: Contents): TreeEntry => {
  const { type, text, mode, uid, modifiedNs, xattrs } = thing
  const attributes = { path, mode, uid, gid: 0, modifiedNs, ...(xattrs && { xattrs }) }
  if (type === 'file') return { type, ...attributes, content: contents.add(text) }
  return type === 'symlink' ? { type, ...attributes, target: text } : { type, ...attributes }
}

const isSame = (left: Thing | undefined, right: Thing | undefined): boolean =>
  JSON.stringify(left) === JSON.stringify(right)

/** The tree by which an image becomes a file system: what is other than the image's, with all directories above it. */
export const treeOf = (image: Full, world: Full, contents: Contents): TreeEntry[] => {
  const lines = new Map<string, TreeEntry>()
  const mention = (path: string): void => {
    const thing = world.get(path)
    if (thing !== undefined && !lines.has(path)) lines.set(path, entryOf(path, thing, contents))
    if (path !== '') mention(parent(path))
  }
  const inodes = new Map<number, string>()
  for (const path of [...world.keys()].sort()) {
    const thing = world.get(path)
    if (thing === undefined || (isSame(image.get(path), thing) && thing.inode === undefined)) continue
    mention(path)
    const first = inodes.get(thing.inode ?? -1)
    if (first !== undefined) lines.set(path, { type: 'link', path, target: first })
    else if (thing.inode !== undefined) inodes.set(thing.inode, path)
  }
  for (const path of image.keys()) {
    const above = parent(path)
    if (world.has(path) || (above !== '' && world.get(above)?.type !== 'directory')) continue
    mention(above)
    lines.set(path, { type: 'deleted', path })
  }
  return [...lines.values()].sort((left, right) => (left.path < right.path ? -1 : 1))
}

/** What an image and a tree come to, in the slow and obvious way. */
export const applyTree = (image: Full, tree: readonly TreeEntry[], contents: Contents): Map<string, Thing> => {
  const world = new Map(image)
  const clear = (path: string): void => {
    for (const other of [...world.keys()]) if (other === path || other.startsWith(`${path}/`)) world.delete(other)
  }
  let inode = 0
  for (const entry of tree) {
    const { path } = entry
    if (entry.type !== 'directory' || world.get(path)?.type !== 'directory') clear(path)
    if (entry.type === 'deleted') continue
    if (entry.type === 'link') {
      const first = world.get(entry.target)
      if (first === undefined) throw new Error(`${path} is a link to nothing`)
      const one = { ...first, inode: first.inode ?? ++inode }
      world.set(entry.target, one)
      world.set(path, one)
      continue
    }
    const { type, mode, uid, modifiedNs, xattrs } = entry
    const text =
      type === 'file' ? contents.read(entry.content.sha256).toString('latin1') : type === 'symlink' ? entry.target : ''
    world.set(path, { type, text, mode, uid, modifiedNs, ...(xattrs && { xattrs }) })
  }
  return world
}

export const filesOf = (image: Full, contents: Contents): MergeFiles => ({
  read: async (entry) => contents.read(entry.content.sha256),
  write: async (bytes) => contents.add(Buffer.from(bytes).toString('latin1')),
  async image(path): Promise<ImageFile | undefined> {
    const name = path.toString('latin1')
    const thing = image.get(name)
    if (thing === undefined) return undefined
    const { type, mode, uid, modifiedNs, text, xattrs } = thing
    return {
      type,
      mode,
      uid,
      gid: 0,
      modifiedNs,
      sizeBytes: type === 'file' ? text.length : 0,
      read: async () => Buffer.from(text, 'latin1'),
      names: async () =>
        [...image.keys()].filter((one) => parent(one) === name).map((one) => Buffer.from(one.slice(name.length + 1))),
      ...(xattrs && { xattrs }),
      ...(type === 'symlink' && { target: Buffer.from(text) }),
    }
  },
})

/** What is wrong with the form of a tree. */
export const faultsOf = (tree: readonly TreeEntry[]): string[] => {
  const faults: string[] = []
  const seen = new Map<string, TreeEntry>()
  let last = ''
  for (const entry of tree) {
    const { path } = entry
    if (path <= last) faults.push(`${path} comes after ${last}`)
    last = path
    const above = parent(path)
    if (above !== '' && seen.get(above)?.type !== 'directory') faults.push(`${path} is below no directory`)
    if (entry.type === 'link' && seen.get(entry.target)?.type !== 'file') faults.push(`${path} is a link to no file`)
    if (entry.type === 'file' && entry.content.pieces.length === 0 && entry.content.sizeBytes > 0)
      faults.push(`${path} has a content that is nowhere`)
    seen.set(path, entry)
  }
  return faults
}
