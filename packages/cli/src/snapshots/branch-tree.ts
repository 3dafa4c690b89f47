import type { Branch, Snapshot } from '@bramble/sdk'
import { formatAge, formatBytes } from '../format.ts'
import { INSTANCE_STYLES } from '../instances/instance-columns.ts'
import { paint, safeLine } from '../terminal.ts'
import { memoryText, shortId } from './snapshot-columns.ts'

type InstanceRecord = NonNullable<Branch['instance']>

/** What is known of the states of a tenant, as lists. */
export interface Family {
  readonly branches: readonly Branch[]
  /** Instances that are no branches, too: what branches began from. */
  readonly instances: readonly InstanceRecord[]
  readonly snapshots: readonly Snapshot[]
  /** What running instances have written, by id. */
  readonly diskBytes: ReadonlyMap<string, number>
}

interface TreeNode {
  readonly id: string
  readonly createdAt: string | undefined
  readonly instance?: InstanceRecord | undefined
  readonly snapshot?: Snapshot | undefined
  /** That it continued from another, with its processes or without. */
  readonly branch?: Branch | undefined
  readonly children: TreeNode[]
}

export interface TreeOptions {
  readonly color: boolean
  /** Only this and what descends from it. */
  readonly root?: string | undefined
  /** Branches that were deleted are shown, too, where nothing descends from them. */
  readonly all: boolean
}

/**
 * The tree of what came from what: instances (●, ○ when they are gone) and snapshots (◆), each with its state, its age, its size and
 * whether processes went on in it. Empty where there is nothing to show.
 */
export const treeText = (family: Family, options: TreeOptions): string => {
  const { nodes, roots } = treeOf(family)
  const shown = options.root === undefined ? roots.filter(isFamily) : [nodes.get(options.root)].filter((one) => !!one)
  const lines = shown.flatMap((root) => linesOf(root, family, options))
  const width = Math.max(0, ...lines.map(({ name }) => name.length))
  return lines
    .map(({ name, rest, style }) => `${paint(style, name.padEnd(width), options.color)}  ${rest}`.trimEnd())
    .join('\n')
}

/** One that stands alone, with no branch and no snapshot, is listed by `ps`. */
const isFamily = ({ children, snapshot }: TreeNode): boolean => children.length > 0 || snapshot !== undefined

const treeOf = ({ branches, instances, snapshots }: Family) => {
  const nodes = new Map<string, TreeNode>()
  const known = new Map(instances.map((instance) => [instance.id as string, instance]))
  const branchOf = new Map(branches.map((branch) => [branch.instanceId as string, branch]))
  const add = (node: TreeNode): void => void nodes.set(node.id, node)
  const addInstance = (id: string): void => {
    if (nodes.has(id)) return
    const branch = branchOf.get(id)
    const instance = branch?.instance ?? known.get(id)
    add({ id, instance, branch, createdAt: branch?.createdAt ?? instance?.createdAt, children: [] })
  }
  for (const snapshot of snapshots) add({ id: snapshot.id, snapshot, createdAt: snapshot.createdAt, children: [] })
  for (const { id } of instances) addInstance(id)
  for (const { instanceId, parent } of branches) {
    addInstance(instanceId)
    // One that is not there any more still holds its branches together.
    addInstance(parent)
  }

  const parentOf = ({ id, snapshot, branch, instance }: TreeNode): TreeNode | undefined => {
    const wanted = snapshot ? [snapshot.source, snapshot.parent] : [branch?.parent, instance?.parent]
    return wanted.map((parent) => (parent === undefined || parent === id ? undefined : nodes.get(parent))).find(Boolean)
  }
  const roots: TreeNode[] = []
  for (const node of nodes.values()) {
    const parent = parentOf(node)
    if (parent === undefined || descends(parent, node, parentOf)) roots.push(node)
    else parent.children.push(node)
  }
  for (const { children } of nodes.values()) children.sort(byAge)
  return { nodes, roots: roots.sort(byAge) }
}

/** A snapshot that was taken of an instance which was restored from it: a circle is cut at the older one. */
const descends = (node: TreeNode, from: TreeNode, parentOf: (node: TreeNode) => TreeNode | undefined): boolean => {
  const seen = new Set<TreeNode>()
  for (let at: TreeNode | undefined = node; at !== undefined && !seen.has(at); at = parentOf(at)) {
    if (at === from) return byAge(from, node) < 0
    seen.add(at)
  }
  return false
}

/** Ids of what was made at once are in the order of their making. */
const byAge = (left: TreeNode, right: TreeNode): number => (ageOf(left) < ageOf(right) ? -1 : 1)
const ageOf = ({ createdAt = '', id }: TreeNode): string => `${createdAt} ${id}`

interface Line {
  readonly name: string
  readonly rest: string
  readonly style: 'green' | 'yellow' | 'cyan' | 'dim'
}

const linesOf = (root: TreeNode, family: Family, options: TreeOptions): Line[] => {
  const lines: Line[] = []
  const draw = (node: TreeNode, before: string, below: string): void => {
    lines.push({ ...lineOf(node, family), name: before + nameOf(node) })
    const children = node.children.filter((child) => options.all || isLeft(child))
    for (const [at, child] of children.entries()) {
      const last = at === children.length - 1
      draw(child, `${below}${last ? '└─' : '├─'}`, `${below}${last ? '  ' : '│ '}`)
    }
  }
  draw(root, '', '')
  return lines
}

const isLeft = (node: TreeNode): boolean =>
  node.snapshot !== undefined || node.instance !== undefined || node.children.some(isLeft)

const nameOf = ({ id, snapshot, instance }: TreeNode): string => {
  const name = snapshot?.name ?? instance?.name
  const sign = snapshot ? '◆' : instance ? '●' : '○'
  return safeLine(`${sign} ${shortId(id)}${name === undefined ? '' : ` ${name}`}`)
}

const lineOf = (node: TreeNode, { diskBytes }: Family): Omit<Line, 'name'> => {
  const { id, snapshot, instance, branch, createdAt } = node
  const age = createdAt === undefined ? '' : formatAge(createdAt)
  if (snapshot) {
    const memory = snapshot.memory ? `memory of ${memoryText(snapshot)}` : ''
    return {
      style: 'yellow',
      rest: textOf([snapshot.origin === 'merge' ? 'merge' : 'snapshot', age, formatBytes(snapshot.filesBytes), memory]),
    }
  }
  const bytes = diskBytes.get(id)
  const size = bytes === undefined ? '' : formatBytes(bytes)
  return {
    style: instance ? INSTANCE_STYLES[instance.status] : 'dim',
    rest: textOf([instance?.status ?? 'gone', age, size, branch?.memory ? 'with memory' : '']),
  }
}

const textOf = (parts: readonly string[]): string => parts.filter((part) => part !== '').join(', ')
