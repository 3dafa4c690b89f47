import type { PathKey } from './tree-path.ts'
import type { FileNode, State, TreeTable } from './tree-table.ts'

/**
 * Which paths of the result are names of one file, each with the first of them (which is not in the map).
 *
 * Two names are one file if a branch has them so, unless they were in the base and another branch parted them; and only if
 * they came out equal. So the contents never depend on links, and links only on what branches did with them.
 */
export const mergeLinks = (
  tables: readonly TreeTable[],
  states: ReadonlyMap<PathKey, State>,
): Map<PathKey, PathKey> => {
  if (tables.every(({ links }) => links.size === 0)) return new Map()
  const groups = tables.map(labelsOf)
  const [base = new Map<PathKey, PathKey>(), ...branches] = groups
  const union = makeUnion()
  for (const labels of branches)
    for (const members of membersOf(labels)) {
      /** By what they came out as: the first of each class of the base. */
      const leaders = new Map<string, PathKey>()
      const classes = new Map<string, PathKey>()
      for (const key of members) {
        const node = states.get(key)
        if (node?.type !== 'file') continue
        const identity = identityOf(node)
        const label = base.get(key)
        const parted = label === undefined ? key : branches.map((one) => one.get(key) ?? key).join('\0')
        const name = `${identity}\0${label ?? ''}\0${parted}`
        const first = classes.get(name)
        if (first !== undefined) union.join(first, key)
        else {
          classes.set(name, key)
          const [kind, leader] = [`${identity}\0${label ?? key}`, leaders.get(identity)]
          // Another part of the same class of the base is not joined again.
          if (leader === undefined) leaders.set(identity, key)
          else if (!leaders.has(kind) && base.get(leader) !== (label ?? '')) union.join(leader, key)
          leaders.set(kind, key)
        }
      }
    }
  return union.firsts()
}

/** Of each name of a file that has more than one: the first of them. */
const labelsOf = ({ links }: TreeTable): Map<PathKey, PathKey> => {
  const labels = new Map(links)
  for (const target of links.values()) labels.set(target, target)
  return labels
}

const membersOf = (labels: ReadonlyMap<PathKey, PathKey>): Iterable<PathKey[]> => {
  const groups = new Map<PathKey, PathKey[]>()
  for (const [key, label] of labels) {
    const group = groups.get(label)
    if (group === undefined) groups.set(label, [key])
    else group.push(key)
  }
  for (const group of groups.values()) group.sort()
  return groups.values()
}

const identityOf = ({ mode, uid, gid, modifiedNs, xattrs, content }: FileNode): string =>
  JSON.stringify([mode, uid, gid, modifiedNs, content.sha256, Object.entries(xattrs ?? {}).sort()])

const makeUnion = () => {
  const parents = new Map<PathKey, PathKey>()
  const find = (key: PathKey): PathKey => {
    let root = key
    for (let next = parents.get(root); next !== undefined; next = parents.get(root)) root = next
    return root
  }
  return {
    /** The first in order stays the root. */
    join(left: PathKey, right: PathKey): void {
      const [first = left, second = right] = [find(left), find(right)].sort()
      if (first !== second) parents.set(second, first)
    },
    firsts: (): Map<PathKey, PathKey> => new Map([...parents.keys()].map((key) => [key, find(key)])),
  }
}
