import type { constants } from 'node:os'
import { posix } from 'node:path'

export type Errno = keyof typeof constants.errno

/** A failed system call of the fake sandbox, with the name of its errno(3). */
export class SystemError extends Error {
  override readonly name = 'SystemError'
  readonly errno: Errno

  constructor(errno: Errno) {
    super(TEXTS[errno] ?? errno)
    this.errno = errno
  }
}

const TEXTS: Partial<Record<Errno, string>> = {
  ENOEXEC: 'Exec format error',
  ENOENT: 'No such file or directory',
  EACCES: 'Permission denied',
  EPERM: 'Operation not permitted',
  EEXIST: 'File exists',
  ENOTDIR: 'Not a directory',
  EISDIR: 'Is a directory',
  ENOSPC: 'No space left on device',
  ENOTEMPTY: 'Directory not empty',
  ELOOP: 'Too many levels of symbolic links',
  EINVAL: 'Invalid argument',
}

export interface Credentials {
  readonly uid: number
  readonly gids: readonly number[]
}

export type Device = 'null' | 'zero' | 'random' | 'full'
interface Owned {
  mode: number
  uid: number
  gid: number
  /** Nanoseconds since 1970. */
  modifiedNs: bigint
  xattrs?: Readonly<Record<string, Uint8Array>>
}
export interface FileNode extends Owned {
  readonly kind: 'file'
  /** Buffers that do not change: copies of the file share them. */
  chunks: Buffer[]
  sizeBytes: number
  /** How many names it has. */
  links: number
  /** The name of the command that executing this file runs. */
  readonly program?: string
  readonly device?: Device
}
export interface DirectoryNode extends Owned {
  readonly kind: 'directory'
  readonly entries: Map<string, Node>
}
export interface LinkNode extends Owned {
  readonly kind: 'link'
  readonly target: string
}
/** What stands for mkfifo(3)'s: it is there, and nobody can open it. */
export interface FifoNode extends Owned {
  readonly kind: 'fifo'
}
export type Node = FileNode | DirectoryNode | LinkNode | FifoNode

type Made<N> = N extends Node ? Omit<N, 'modifiedNs' | 'links'> : never
/** A node as it is made: its time, and how many names it has, come of themselves. */
export type NewNode = Made<Node>

const READ = 4
const WRITE = 2
const EXECUTE = 1
const ROOT: Credentials = { uid: 0, gids: [0] }
const MAX_LINKS = 40

const may = (node: Owned, who: Credentials, bits: number): boolean => {
  if (who.uid === 0) return bits !== EXECUTE || (node.mode & 0o111) !== 0
  const shift = node.uid === who.uid ? 6 : who.gids.includes(node.gid) ? 3 : 0
  return ((node.mode >> shift) & bits) === bits
}

/** A copy of a node and of all that is in it; those that were copied already stay one. */
export const copyNode = (node: Node, copied: Map<Node, Node>): Node => {
  const there = copied.get(node)
  if (there) return there
  const copy: Node =
    node.kind === 'file'
      ? { ...node, chunks: [...node.chunks] }
      : node.kind === 'directory'
        ? { ...node, entries: new Map() }
        : { ...node }
  copied.set(node, copy)
  if (node.kind === 'directory' && copy.kind === 'directory')
    for (const [name, entry] of node.entries) copy.entries.set(name, copyNode(entry, copied))
  return copy
}

/** The files of one fake sandbox, in memory, with owners, modes, links and a limit of bytes. */
export class FakeFileSystem {
  readonly root: DirectoryNode
  readonly #nowNs: () => bigint
  #maxBytes: number
  #usedBytes = 0

  constructor(maxBytes: number, nowNs: () => bigint, root?: DirectoryNode) {
    this.#maxBytes = maxBytes
    this.#nowNs = nowNs
    const made = { kind: 'directory', mode: 0o755, uid: 0, gid: 0, entries: new Map() } as const
    this.root = root ?? { ...made, modifiedNs: nowNs() }
  }

  /** Another one with the same files. `copied` says which node became which, and has what is asked of it beside. */
  copy(copied: Map<Node, Node> = new Map()): FakeFileSystem {
    const root = copyNode(this.root, copied)
    if (root.kind !== 'directory') throw new Error('the root is a directory')
    const files = new FakeFileSystem(this.#maxBytes, this.#nowNs, root)
    files.#usedBytes = this.#usedBytes
    return files
  }

  /** A new limit; what is there already stays. */
  set maxBytes(bytes: number) {
    this.#maxBytes = bytes
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  /** The node at an absolute path, links followed, or `ENOENT`. */
  get(path: string, who: Credentials = ROOT): Node {
    const node = this.#walk(path, who, true).node
    if (!node) throw new SystemError('ENOENT')
    return node
  }

  directory(path: string, who: Credentials): DirectoryNode {
    const node = this.get(path, who)
    if (node.kind !== 'directory') throw new SystemError('ENOTDIR')
    return node
  }

  /** The names in a directory, sorted; of anything else, nothing. */
  list(path: string, who: Credentials): string[] | undefined {
    const node = this.get(path, who)
    if (node.kind !== 'directory') return undefined
    if (!may(node, who, READ)) throw new SystemError('EACCES')
    return [...node.entries.keys()].sort()
  }

  read(path: string, who: Credentials): FileNode {
    const node = this.get(path, who)
    if (node.kind === 'directory') throw new SystemError('EISDIR')
    if (node.kind !== 'file' || !may(node, who, READ)) throw new SystemError('EACCES')
    return node
  }

  executable(file: FileNode, who: Credentials): boolean {
    return may(file, who, EXECUTE)
  }

  /** The file for `append`, made when it is not there, emptied when `truncate`. */
  openForWrite(path: string, who: Credentials, truncate: boolean): FileNode {
    const { parent, name, node } = this.#walk(path, who, true)
    if (node?.kind === 'directory') throw new SystemError('EISDIR')
    if (node?.kind === 'file') {
      if (!may(node, who, WRITE)) throw new SystemError('EACCES')
      if (truncate && !node.device) this.#release(node)
      return node
    }
    const owned = { mode: 0o644, uid: who.uid, gid: who.gids[0] ?? 0, modifiedNs: this.#nowNs() }
    const file: FileNode = { kind: 'file', ...owned, chunks: [], sizeBytes: 0, links: 1 }
    this.#insert(parent, name, file, who)
    return file
  }

  append(file: FileNode, data: Buffer): void {
    if (file.device === 'full') throw new SystemError('ENOSPC')
    if (file.device) return
    if (this.#usedBytes + data.length > this.#maxBytes) throw new SystemError('ENOSPC')
    if (file.links > 0) this.#usedBytes += data.length
    file.sizeBytes += data.length
    file.modifiedNs = this.#nowNs()
    file.chunks.push(Buffer.from(data))
  }

  /** Puts a node where nothing is yet. */
  make(path: string, node: NewNode, who: Credentials = ROOT): Node {
    const found = this.#walk(path, who, false)
    if (found.node) throw new SystemError('EEXIST')
    const modifiedNs = this.#nowNs()
    const made: Node = node.kind === 'file' ? { ...node, modifiedNs, links: 1 } : { ...node, modifiedNs }
    this.#insert(found.parent, found.name, made, who)
    return made
  }

  /** Another name for a file. */
  link(target: string, path: string, who: Credentials): void {
    const { node } = this.#walk(target, who, false)
    if (!node) throw new SystemError('ENOENT')
    if (node.kind !== 'file') throw new SystemError('EPERM')
    const found = this.#walk(path, who, false)
    if (found.node) throw new SystemError('EEXIST')
    this.#insert(found.parent, found.name, node, who)
    node.links++
  }

  /** The node itself, where its path ends in a link. */
  find(path: string, who: Credentials = ROOT): Node | undefined {
    return this.#walk(path, who, false).node
  }

  makeDirectories(path: string, who: Credentials = ROOT, mode = 0o755): void {
    let at = ''
    for (const name of path.split('/').filter(Boolean)) {
      at += `/${name}`
      const found = this.#walk(at, who, true).node
      if (found && found.kind !== 'directory') throw new SystemError('ENOTDIR')
      const gid = who.gids[0] ?? 0
      if (!found) this.make(at, { kind: 'directory', mode, uid: who.uid, gid, entries: new Map() }, who)
    }
  }

  remove(path: string, who: Credentials, recursive: boolean): void {
    const { parent, name, node } = this.#walk(path, who, false)
    if (!node) throw new SystemError('ENOENT')
    if (node === this.root || name === '') throw new SystemError('EPERM')
    if (node.kind === 'directory' && !recursive) throw new SystemError('EISDIR')
    this.#mayChange(parent, node, who)
    const release = (gone: Node): void => {
      if (gone.kind === 'file') this.#unlink(gone)
      if (gone.kind === 'directory') for (const entry of gone.entries.values()) release(entry)
    }
    release(node)
    parent.entries.delete(name)
    parent.modifiedNs = this.#nowNs()
  }

  rename(from: string, to: string, who: Credentials): void {
    const source = this.#walk(from, who, false)
    const target = this.#walk(to, who, false)
    if (!source.node) throw new SystemError('ENOENT')
    if (target.node?.kind === 'directory') throw new SystemError('EISDIR')
    this.#mayChange(source.parent, source.node, who)
    this.#mayChange(target.parent, target.node, who)
    if (target.node === source.node) return
    if (target.node?.kind === 'file') this.#unlink(target.node)
    source.parent.entries.delete(source.name)
    target.parent.entries.set(target.name, source.node)
    for (const { parent } of [source, target]) parent.modifiedNs = this.#nowNs()
  }

  /** One name less; who has it open reads it to its end. */
  #unlink(file: FileNode): void {
    file.links--
    if (file.links === 0) this.#usedBytes -= file.sizeBytes
  }

  #release(file: FileNode): void {
    if (file.links > 0) this.#usedBytes -= file.sizeBytes
    file.sizeBytes = 0
    file.chunks = []
    file.modifiedNs = this.#nowNs()
  }

  #insert(parent: DirectoryNode, name: string, node: Node, who: Credentials): void {
    this.#mayChange(parent, undefined, who)
    parent.entries.set(name, node)
    parent.modifiedNs = this.#nowNs()
  }

  #mayChange(parent: DirectoryNode, node: Node | undefined, who: Credentials): void {
    if (!may(parent, who, WRITE | EXECUTE)) throw new SystemError('EACCES')
    const sticky = (parent.mode & 0o1000) !== 0
    if (node && sticky && who.uid !== 0 && node.uid !== who.uid) throw new SystemError('EPERM')
  }

  #walk(
    path: string,
    who: Credentials,
    follow: boolean,
    links = 0,
  ): { parent: DirectoryNode; name: string; node?: Node } {
    if (links > MAX_LINKS) throw new SystemError('ELOOP')
    const names = posix.normalize(`/${path}`).split('/').filter(Boolean)
    let parent = this.root
    let node: Node = this.root
    for (const [index, name] of names.entries()) {
      if (node.kind !== 'directory') throw new SystemError('ENOTDIR')
      if (!may(node, who, EXECUTE)) throw new SystemError('EACCES')
      parent = node
      const last = index === names.length - 1
      const next: Node | undefined = parent.entries.get(name)
      if (next?.kind === 'link' && (follow || !last)) {
        const rest = names.slice(index + 1).join('/')
        const base = `/${names.slice(0, index).join('/')}`
        return this.#walk(posix.resolve(base, next.target, rest), who, follow, links + 1)
      }
      if (!next) {
        if (last) return { parent, name }
        throw new SystemError('ENOENT')
      }
      if (last) return { parent, name, node: next }
      node = next
    }
    return { parent, name: '', node }
  }
}
