import { BrambleError, type Content, type TreeEntry } from '@bramble/protocol'
import type { BytePath, LayerEntry } from '@bramble/runtime'
import { isPathBelow, toBytePath, toTreePath } from './tree-path.ts'

const MAX_TREE_PATH_CHARS = 8192

type Described = Extract<LayerEntry, { mode: number }>
type Attributes = Pick<Extract<TreeEntry, { type: 'fifo' }>, 'mode' | 'uid' | 'gid' | 'modifiedNs' | 'xattrs'>

/** An entry of a layer as a line of a tree; `content` is that of a file. Throws `unsupported` for a path that no tree holds. */
export const toTreeEntry = (entry: LayerEntry, content: Content | undefined): TreeEntry => {
  const target = entry.type === 'symlink' || entry.type === 'link' ? entry.target : undefined
  const { target: to = '', ...path } = toTreePath(entry.path, target)
  if (path.path.length > MAX_TREE_PATH_CHARS || to.length > MAX_TREE_PATH_CHARS)
    throw new BrambleError('unsupported', {
      detail: `the path ${JSON.stringify(path.path.slice(0, 200))}… is too long`,
    })
  switch (entry.type) {
    case 'deleted':
      return { type: 'deleted', ...path }
    case 'link':
      return { type: 'link', ...path, target: to }
    case 'file':
      if (content === undefined) throw new TypeError(`the file ${path.path} has no content`)
      return { type: 'file', ...path, ...attributesOf(entry), content }
    case 'symlink':
      return { type: 'symlink', ...path, ...attributesOf(entry), target: to }
    case 'directory':
    case 'fifo':
      return { type: entry.type, ...path, ...attributesOf(entry) }
    default:
      return entry satisfies never
  }
}

const attributesOf = ({ mode, uid, gid, modifiedNs, xattrs }: Described): Attributes => ({
  mode,
  uid,
  gid,
  modifiedNs: String(modifiedNs),
  ...(xattrs && {
    xattrs: Object.fromEntries(
      Object.entries(xattrs).map(([name, value]) => [name, Buffer.from(value).toString('base64')]),
    ),
  }),
})

/** The bytes of a line's path. Throws `import_refused` where it leaves the root, or is written in another way than it must be. */
export const pathOfEntry = (entry: TreeEntry): BytePath => {
  const path = toBytePath(entry.path, entry.encoding)
  const target = 'target' in entry ? toBytePath(entry.target, entry.encoding) : undefined
  const again = toTreePath(path, target)
  if (again.path !== entry.path || again.encoding !== entry.encoding) throw refused(entry, 'has a path in another form')
  if (target !== undefined && again.target !== (entry as { target: string }).target)
    throw refused(entry, 'has a target in another form')
  if (!isPathBelow(path)) throw refused(entry, 'is not a path below the root')
  if (entry.type === 'link' && (target === undefined || target >= path))
    throw refused(entry, 'is a link to what comes later')
  if (entry.type === 'symlink' && target?.includes('\0')) throw refused(entry, 'has a target that there is not')
  return path
}

const refused = ({ path }: TreeEntry, what: string): BrambleError =>
  new BrambleError('import_refused', { detail: `${JSON.stringify(path.slice(0, 200))} in a tree ${what}` })

/** A line of a tree as an entry of a layer. */
export const toLayerEntry = (entry: TreeEntry, path: BytePath): LayerEntry => {
  switch (entry.type) {
    case 'deleted':
      return { type: 'deleted', path }
    case 'link':
      return { type: 'link', path, target: toBytePath(entry.target, entry.encoding) }
    case 'file':
      return { type: 'file', path, ...describedOf(entry), sizeBytes: entry.content.sizeBytes }
    case 'directory':
      return { type: 'directory', path, ...describedOf(entry), opaque: false }
    case 'symlink':
      return { type: 'symlink', path, ...describedOf(entry), target: toBytePath(entry.target, entry.encoding) }
    case 'fifo':
      return { type: 'fifo', path, ...describedOf(entry) }
    default:
      return entry satisfies never
  }
}

const describedOf = ({ mode, uid, gid, modifiedNs, xattrs }: Attributes) => ({
  mode,
  uid,
  gid,
  modifiedNs: BigInt(modifiedNs),
  ...(xattrs && {
    xattrs: Object.fromEntries(Object.entries(xattrs).map(([name, value]) => [name, Buffer.from(value, 'base64')])),
  }),
})
