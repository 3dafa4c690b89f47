import type { TreeEntry } from '@bramble/protocol'
import type { BytePath } from '@bramble/runtime'
import { parentOf } from '../content/image-listing.ts'
import { toBytePath } from '../content/tree-path.ts'
import { refused } from './tar.ts'

/** What the schema allows, and overlayfs or the host's security modules would take as meant for them, is not among these. */
const XATTRS = /^(user\..+|security\.capability)$/

/**
 * What the reader of a tree, which sees one line after another, does not check: that lines fit each other. Nothing is below what
 * is no directory (a symlink above all: it would lead elsewhere), and a link is of a file that came before.
 *
 * Set-uid and set-gid bits are let through: they mean the users of the sandbox, to whom its own files could give as much. Devices
 * have no form in a tree.
 */
export const makeTreeCheck = (): ((entry: TreeEntry, path: BytePath) => void) => {
  const files = new Set<BytePath>()
  const others = new Set<BytePath>()
  return (entry, path) => {
    for (let above = parentOf(path); above !== ''; above = parentOf(above))
      if (files.has(above) || others.has(above))
        throw refused(`${shown(path)} in the tree is below what is no directory`)
    if (entry.type === 'link' && !files.has(toBytePath(entry.target, entry.encoding)))
      throw refused(`${shown(path)} in the tree is a link to no file before it`)
    if ('xattrs' in entry)
      for (const name of Object.keys(entry.xattrs ?? {}))
        if (!XATTRS.test(name))
          throw refused(`${shown(path)} in the tree has the attribute ${shown(name)}, which is not allowed`)
    if (entry.type === 'file') files.add(path)
    else if (entry.type !== 'directory') others.add(path)
  }
}

const shown = (text: string): string => JSON.stringify(text.slice(0, 200))
