import { type DiffEntry, LIMITS, type SnapshotDiff } from '@bramble/protocol'
import { type ImageNodes, openImageNodes } from './image-nodes.ts'
import type { DiffTrees } from './merge.ts'
import { sameButTime, sameNode, sameState, sameSubstance } from './node-rules.ts'
import { formOf, type PathKey } from './tree-path.ts'
import { makePacer, mayBeDirectory, type Node, pathsOf, readTable, type State, stateOf } from './tree-table.ts'

type Found = Omit<DiffEntry, 'path' | 'encoding'>

/**
 * What one tree has other than another, by path. What one of them says nothing of is asked of the image: what only was copied is
 * no change, nor is a directory's time, which tells no more than that something in it changed. A directory of the image that one
 * of them has and the other has not is told with all that is in it.
 */
export const diffTrees: DiffTrees = async (from, to, image, options = {}) => {
  const { signal } = options
  const [before, after] = [await readTable(from, signal), await readTable(to, signal)]
  const nodes = openImageNodes(image)
  const totals = { added: 0, changed: 0, removed: 0, addedBytes: 0, removedBytes: 0 }
  const found = new Map<PathKey, Found>()
  const known = new Set<PathKey>()
  const add = (key: PathKey, entry: Found): void => {
    count(totals, entry)
    found.set(key, entry)
  }
  const pace = makePacer(signal)
  for (const key of pathsOf([before, after])) {
    const pause = pace()
    if (pause !== undefined) await pause
    known.add(key)
    const [old, now] = [stateOf(before, key), stateOf(after, key)]
    if (sameState(old, now)) continue
    const entry = compare(await nodeOf(nodes, key, old), await nodeOf(nodes, key, now))
    if (entry !== undefined) add(key, entry)
  }
  for (const key of [...known]) {
    const [old, now] = [stateOf(before, key), stateOf(after, key)]
    if (mayBeDirectory(old) === mayBeDirectory(now)) continue
    for await (const [path, node] of imageBelow(nodes, key, known, signal))
      add(path, mayBeDirectory(old) ? removed(node) : added(node))
  }
  const keys = [...found.keys()].sort()
  const items = keys.slice(0, LIMITS.maxDiffEntries.value).flatMap((key): DiffEntry[] => {
    const entry = found.get(key)
    return entry === undefined ? [] : [{ ...formOf(key), ...entry }]
  })
  return { items, truncated: items.length < keys.length, totals } satisfies Omit<SnapshotDiff, 'from' | 'to'>
}

const nodeOf = async (nodes: ImageNodes, key: PathKey, state: State): Promise<Node | null> =>
  state === undefined ? nodes.node(key) : state

const bytesOf = (node: Node): number | undefined => (node.type === 'file' ? node.content.sizeBytes : undefined)

const added = (node: Node): Found => {
  const afterBytes = bytesOf(node)
  return { change: 'added', type: node.type, ...(afterBytes !== undefined && { afterBytes }) }
}

const removed = (node: Node): Found => {
  const beforeBytes = bytesOf(node)
  return { change: 'removed', type: node.type, ...(beforeBytes !== undefined && { beforeBytes }) }
}

const compare = (old: Node | null, now: Node | null): Found | undefined => {
  if (old === null || now === null) return now !== null ? added(now) : old !== null ? removed(old) : undefined
  if (old.type === 'directory' && now.type === 'directory' ? sameButTime(old, now) : sameNode(old, now))
    return undefined
  const [beforeBytes, afterBytes] = [bytesOf(old), bytesOf(now)]
  return {
    change: 'changed',
    type: now.type,
    ...(beforeBytes !== undefined && { beforeBytes }),
    ...(afterBytes !== undefined && { afterBytes }),
    ...(sameSubstance(old, now) && { attributesOnly: true }),
  }
}

const count = (totals: SnapshotDiff['totals'], { change, beforeBytes = 0, afterBytes = 0 }: Found): void => {
  totals[change]++
  totals.addedBytes += Math.max(0, afterBytes - beforeBytes)
  totals.removedBytes += Math.max(0, beforeBytes - afterBytes)
}

/** What the image has below a path, without what trees tell of, and what is below that. */
async function* imageBelow(
  nodes: ImageNodes,
  top: PathKey,
  known: ReadonlySet<PathKey>,
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly [PathKey, Node]> {
  const left = [top]
  for (let above = left.pop(); above !== undefined; above = left.pop())
    for (const name of await nodes.names(above)) {
      signal?.throwIfAborted()
      const key = `${above}/${name}`
      const node = known.has(key) ? null : await nodes.node(key)
      if (node === null) continue
      if (node.type === 'directory') left.push(key)
      yield [key, node]
    }
}
