import type { FileNode, Node, State } from './tree-table.ts'

export type Xattrs = Readonly<Record<string, string>>

const sameXattrs = (left: Xattrs = {}, right: Xattrs = {}): boolean => {
  const names = Object.keys(left)
  return names.length === Object.keys(right).length && names.every((name) => left[name] === right[name])
}

/** Of an image's file that is too large to be read, the hash is not known (it is empty): size and time tell instead. */
export const sameContent = (left: FileNode, right: FileNode): boolean => {
  if (left.content.sha256 !== '' && right.content.sha256 !== '') return left.content.sha256 === right.content.sha256
  return left.content.sizeBytes === right.content.sizeBytes && left.modifiedNs === right.modifiedNs
}

const sameTarget = (left: Extract<Node, { type: 'symlink' }>, right: Extract<Node, { type: 'symlink' }>): boolean =>
  left.encoding === right.encoding
    ? left.target === right.target
    : Buffer.from(left.target, left.encoding).equals(Buffer.from(right.target, right.encoding))

/** What it is, but for its attributes. */
export const sameSubstance = (left: Node, right: Node): boolean => {
  if (left.type === 'file' && right.type === 'file') return sameContent(left, right)
  if (left.type === 'symlink' && right.type === 'symlink') return sameTarget(left, right)
  return left.type === right.type
}

export const sameButTime = (left: Node, right: Node): boolean =>
  left.mode === right.mode &&
  left.uid === right.uid &&
  left.gid === right.gid &&
  sameSubstance(left, right) &&
  sameXattrs(left.xattrs, right.xattrs)

export const sameNode = (left: Node, right: Node): boolean =>
  left === right || (left.modifiedNs === right.modifiedNs && sameButTime(left, right))

/** Without asking the image: what it has equals nothing but itself. */
export const sameState = (left: State, right: State): boolean =>
  left === right || (!!left && !!right && sameNode(left, right))

export const later = (left: string, right: string): string => (BigInt(left) < BigInt(right) ? right : left)

export const latest = <N extends Node>(node: N, others: readonly Node[]): N => {
  const modifiedNs = others.reduce((time, other) => later(time, other.modifiedNs), node.modifiedNs)
  return modifiedNs === node.modifiedNs ? node : { ...node, modifiedNs }
}
