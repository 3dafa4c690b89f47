import { parentOf } from '../snapshots/content/image-listing.ts'
import { findDirectoryMoves } from './directory-moves.ts'
import type { ImageNodes } from './image-nodes.ts'
import type { MergeFiles } from './merge.ts'
import { readNode } from './merge-contents.ts'
import { sameButTime } from './node-rules.ts'
import { isText, makeLineReader } from './text/lines.ts'
import { nameOf, type PathKey } from './tree-path.ts'
import { type FileNode, makePacer, type State, stateOf, type TreeTable } from './tree-table.ts'

/** What a path is taken to be, in the base and in each branch, instead of what the trees say. */
export interface Renames {
  readonly base: ReadonlyMap<PathKey, State>
  readonly branches: readonly ReadonlyMap<PathKey, State>[]
  /** All paths that are in one of the maps. */
  readonly paths: ReadonlySet<PathKey>
}

export interface RenameSearch {
  readonly base: TreeTable
  readonly branches: readonly TreeTable[]
  readonly image: ImageNodes
  readonly files: MergeFiles
  readonly signal: AbortSignal | undefined
}

export interface RenameMaps extends Renames {
  readonly base: Map<PathKey, State>
  readonly branches: Map<PathKey, State>[]
  readonly paths: Set<PathKey>
}

/** Files that are compared by their lines in one merge, and with one file that was moved. */
const maxComparedFiles = 512
const maxComparedWithOne = 16
/** Of the bytes of the larger text, in lines that the other has too. */
const minSimilarity = 0.5
/** How much more similar it must be than the next one. */
const minLead = 0.1

/**
 * A file that one branch moved and another changed: the change goes where the file went. It is looked for only where it
 * matters: for paths that are gone in some branches and changed in others. It went to a path that is new in that branch and
 * has the same bytes, or else the most similar text; where two are as good, to none.
 *
 * From then on the merge sees the old path as unchanged by those who changed it, and the new one as what they made of it.
 */
export const findRenames = async (search: RenameSearch): Promise<Renames> => {
  const maps: RenameMaps = { base: new Map(), branches: search.branches.map(() => new Map()), paths: new Set() }
  if (search.branches.length < 2) return maps
  await findDirectoryMoves(search, maps)
  const finder = makeFinder(search)
  for (const key of await candidatesOf(search)) {
    if (maps.paths.has(key)) continue
    const states = search.branches.map((table) => stateOf(table, key))
    const base = await known(search.image, key, stateOf(search.base, key))
    if (base?.type !== 'file') continue
    const nodes = await Promise.all(states.map((state) => known(search.image, key, state)))
    const changed = nodes.some((node) => node?.type === 'file' && !sameButTime(node, base))
    const gone = nodes.flatMap((node, branch) => (node === null ? [branch] : []))
    if (!changed || gone.length === 0) continue
    const targets = new Set<PathKey | undefined>()
    for (const branch of gone) targets.add(await finder.find(key, base, branch))
    const [target] = targets
    if (targets.size === 1 && target !== undefined) moveChange(search, maps, { from: key, to: target, gone, base })
  }
  return maps
}

const known = async (image: ImageNodes, key: PathKey, state: State) => (state === undefined ? image.node(key) : state)

/** Paths that some branch lost and some branch has otherwise than the base. */
const candidatesOf = async ({ base, branches, signal }: RenameSearch): Promise<PathKey[]> => {
  const found = new Set<PathKey>()
  const pace = makePacer(signal)
  for (const table of branches)
    for (const [key, node] of table.entries) {
      const pause = pace()
      if (pause !== undefined) await pause
      if (node?.type !== 'file') continue
      const before = stateOf(base, key)
      if (before === node || (before && before.type !== 'file') || before === null) continue
      const lost = branches.some((other) => {
        const state = other === table ? node : stateOf(other, key)
        return state === null
      })
      if (lost) found.add(key)
    }
  return [...found].sort()
}

interface Move {
  readonly from: PathKey
  readonly to: PathKey
  /** The branches that moved it. */
  readonly gone: readonly number[]
  readonly base: FileNode
}

const moveChange = ({ base, branches }: RenameSearch, maps: RenameMaps, { from, to, gone, base: node }: Move): void => {
  if (maps.paths.has(to) || maps.paths.has(from)) return
  const before = stateOf(base, from)
  const others = branches.flatMap((_, branch) => (gone.includes(branch) ? [] : [branch]))
  const taken = others.some((branch) => branches[branch]?.entries.has(to))
  if (taken) return
  maps.base.set(to, node)
  maps.paths.add(from).add(to)
  for (const branch of others) {
    const table = branches[branch]
    if (table === undefined) continue
    maps.branches[branch]?.set(to, stateOf(table, from) ?? node)
    maps.branches[branch]?.set(from, before)
  }
}

interface Finder {
  /** Where a branch moved the file to. Undefined: nowhere, or nobody can tell. */
  find(key: PathKey, node: FileNode, branch: number): Promise<PathKey | undefined>
}

const makeFinder = (search: RenameSearch): Finder => {
  const news = new Map<number, Promise<NewFiles>>()
  let compared = 0
  return {
    async find(key, node, branch) {
      const table = search.branches[branch]
      if (table === undefined) return undefined
      const asked = news.get(branch) ?? newFilesOf(search, table)
      news.set(branch, asked)
      const { byHash, all, lost } = await asked
      if (node.content.sizeBytes === 0) return undefined
      const equal = byHash.get(node.content.sha256) ?? []
      if (equal.length > 0) return pickEqual(search, key, equal, lost.get(node.content.sha256) ?? [])
      const like = likely(key, node, all)
      if (compared + like.length > maxComparedFiles) return undefined
      compared += like.length
      return pickSimilar(search, node, like)
    },
  }
}

interface NewFiles {
  readonly byHash: ReadonlyMap<string, PathKey[]>
  readonly all: readonly (readonly [PathKey, FileNode])[]
  /** Paths of the base that are gone, by their hash. */
  readonly lost: ReadonlyMap<string, PathKey[]>
}

const addTo = (map: Map<string, PathKey[]>, name: string, key: PathKey): void => {
  const list = map.get(name)
  if (list === undefined) map.set(name, [key])
  else list.push(key)
}

const newFilesOf = async ({ base, signal }: RenameSearch, table: TreeTable): Promise<NewFiles> => {
  const byHash = new Map<string, PathKey[]>()
  const lost = new Map<string, PathKey[]>()
  const all: [PathKey, FileNode][] = []
  const pace = makePacer(signal)
  for (const [key, node] of table.entries) {
    const pause = pace()
    if (pause !== undefined) await pause
    // Where the base says nothing, the image may have it: that is asked of the few that are chosen.
    if (node?.type !== 'file' || stateOf(base, key)) continue
    all.push([key, node])
    addTo(byHash, node.content.sha256, key)
  }
  for (const [key, node] of base.entries) {
    const pause = pace()
    if (pause !== undefined) await pause
    if (node?.type === 'file' && !stateOf(table, key)) addTo(lost, node.content.sha256, key)
  }
  return { byHash, all, lost }
}

const isNew = async ({ base, image }: RenameSearch, key: PathKey): Promise<boolean> =>
  stateOf(base, key) === null || (await image.node(key)) === null

/** Of several with the same bytes, the one with the same name; where several of them went, names must tell which. */
const pickEqual = async (
  search: RenameSearch,
  key: PathKey,
  equal: readonly PathKey[],
  lost: readonly PathKey[],
): Promise<PathKey | undefined> => {
  const named = equal.filter((path) => nameOf(path) === nameOf(key))
  const rivals = lost.filter((path) => path !== key)
  const among = equal.length === 1 && rivals.length === 0 ? equal : named
  const [one] = among
  if (one === undefined || among.length > 1) return undefined
  if (rivals.some((path) => nameOf(path) === nameOf(key))) return undefined
  return (await isNew(search, one)) ? one : undefined
}

const likely = (key: PathKey, { content }: FileNode, all: NewFiles['all']): (readonly [PathKey, FileNode])[] => {
  const { sizeBytes } = content
  const rank = ([path, node]: readonly [PathKey, FileNode]): number =>
    Math.abs(node.content.sizeBytes - sizeBytes) / sizeBytes -
    (nameOf(path) === nameOf(key) ? 2 : 0) -
    (parentOf(path) === parentOf(key) ? 1 : 0)
  return all
    .filter(([, node]) => node.content.sizeBytes <= 2 * sizeBytes && node.content.sizeBytes >= sizeBytes / 2)
    .sort((left, right) => rank(left) - rank(right))
    .slice(0, maxComparedWithOne)
}

const pickSimilar = async (
  search: RenameSearch,
  node: FileNode,
  like: readonly (readonly [PathKey, FileNode])[],
): Promise<PathKey | undefined> => {
  const read = async (one: FileNode): Promise<Uint8Array | undefined> => {
    const bytes = await readNode(search, one)
    return bytes !== undefined && isText(bytes) ? bytes : undefined
  }
  const text = like.length > 0 ? await read(node) : undefined
  if (text === undefined) return undefined
  const scores: { path: PathKey; score: number }[] = []
  for (const [path, other] of like) {
    search.signal?.throwIfAborted()
    const bytes = await read(other)
    if (bytes !== undefined) scores.push({ path, score: similarity(text, bytes) })
  }
  scores.sort((left, right) => right.score - left.score)
  const [best, next] = scores
  if (best === undefined || best.score < minSimilarity || best.score - (next?.score ?? 0) < minLead) return undefined
  return (await isNew(search, best.path)) ? best.path : undefined
}

/** The part of the larger text that is in lines of the other, each counted as often as both have it. */
const similarity = (left: Uint8Array, right: Uint8Array): number => {
  const read = makeLineReader()
  const [one, other] = [read(left), read(right)]
  const counts = new Map<number, number>()
  for (const id of one.ids) counts.set(id, (counts.get(id) ?? 0) + 1)
  let common = 0
  other.ids.forEach((id, line) => {
    const count = counts.get(id) ?? 0
    if (count === 0) return
    counts.set(id, count - 1)
    common += (other.starts[line + 1] ?? 0) - (other.starts[line] ?? 0)
  })
  return common / Math.max(left.length, right.length, 1)
}
