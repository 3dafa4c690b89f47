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
}
export interface FileNode extends Owned {
  readonly kind: 'file'
  chunks: Buffer[]
  sizeBytes: number
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
export type Node = FileNode | DirectoryNode | LinkNode

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

/** The files of one fake sandbox, in memory, with owners, modes, links and a limit of bytes. */
export class FakeFileSystem {
  readonly #root: DirectoryNode = { kind: 'directory', mode: 0o755, uid: 0, gid: 0, entries: new Map() }
  #maxBytes: number
  #usedBytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
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
    const file: FileNode = { kind: 'file', mode: 0o644, uid: who.uid, gid: who.gids[0] ?? 0, chunks: [], sizeBytes: 0 }
    this.#insert(parent, name, file, who)
    return file
  }

  append(file: FileNode, data: Buffer): void {
    if (file.device === 'full') throw new SystemError('ENOSPC')
    if (file.device) return
    if (this.#usedBytes + data.length > this.#maxBytes) throw new SystemError('ENOSPC')
    this.#usedBytes += data.length
    file.sizeBytes += data.length
    file.chunks.push(Buffer.from(data))
  }

  /** Puts a node where nothing is yet. */
  make(path: string, node: Node, who: Credentials = ROOT): void {
    const found = this.#walk(path, who, false)
    if (found.node) throw new SystemError('EEXIST')
    this.#insert(found.parent, found.name, node, who)
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
    if (node === this.#root || name === '') throw new SystemError('EPERM')
    if (node.kind === 'directory' && !recursive) throw new SystemError('EISDIR')
    this.#mayChange(parent, node, who)
    const release = (gone: Node): void => {
      if (gone.kind === 'file') this.#release(gone)
      if (gone.kind === 'directory') for (const entry of gone.entries.values()) release(entry)
    }
    release(node)
    parent.entries.delete(name)
  }

  rename(from: string, to: string, who: Credentials): void {
    const source = this.#walk(from, who, false)
    const target = this.#walk(to, who, false)
    if (!source.node) throw new SystemError('ENOENT')
    if (target.node?.kind === 'directory') throw new SystemError('EISDIR')
    this.#mayChange(source.parent, source.node, who)
    this.#mayChange(target.parent, target.node, who)
    if (target.node?.kind === 'file') this.#release(target.node)
    source.parent.entries.delete(source.name)
    target.parent.entries.set(target.name, source.node)
  }

  #release(file: FileNode): void {
    this.#usedBytes -= file.sizeBytes
    file.sizeBytes = 0
    file.chunks = []
  }

  #insert(parent: DirectoryNode, name: string, node: Node, who: Credentials): void {
    this.#mayChange(parent, undefined, who)
    parent.entries.set(name, node)
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
    let parent = this.#root
    let node: Node = this.#root
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
