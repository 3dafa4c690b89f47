import { LIMITS } from '@bramble/protocol'
import type { Given } from './attributes.ts'
import type { MergeContext } from './merge-context.ts'
import type { DiffBudget } from './text/diff-lines.ts'
import { isText } from './text/lines.ts'
import type { FileNode, Node } from './tree-table.ts'

export interface MergedContent {
  readonly content: FileNode['content']
  /** Of the base, where versions disagree. */
  readonly lines: { from: number; to: number }[]
}

/** Steps of all comparisons of one file, and of one merge: some tenths of a second, and some seconds. */
const maxFileSteps = 40_000_000
const maxMergeSteps = 1_000_000_000
/** Places of one file that a conflict tells. */
const maxConflictPlaces = 100

export const makeMergeBudget = (): DiffBudget => ({ steps: maxMergeSteps })

/**
 * Merges contents by lines; undefined where one of them is no text, or too large. Without a base they are compared with an
 * empty text. Whatever the strategy, nothing is stored that is not used: with `fail` a text with conflicts is the first one.
 */
export const mergeContents = async (
  context: MergeContext,
  base: FileNode | undefined,
  versions: readonly Given<FileNode>[],
): Promise<MergedContent | undefined> => {
  const [first] = versions
  const all = [...(base === undefined ? [] : [base]), ...versions.map(({ value }) => value)]
  if (first === undefined || all.some(({ content }) => content.sizeBytes > LIMITS.maxMergeTextBytes.value))
    return undefined
  const texts: Uint8Array[] = []
  for (const node of all) {
    const bytes = await readNode(context, node)
    if (!isText(bytes)) return undefined
    texts.push(bytes)
  }
  const before = base === undefined ? new Uint8Array() : texts.shift()
  if (before === undefined) return undefined
  const granted = Math.min(maxFileSteps, context.budget.steps)
  const { bytes, conflicts, steps } = await context.lines.merge({
    base: before,
    versions: versions.map(({ first, last }, place) => ({ bytes: texts[place] ?? before, first, last })),
    settle: context.strategy,
    steps: granted,
  })
  context.budget.steps -= granted - steps
  const lines = conflicts.slice(0, maxConflictPlaces).map(({ from, to }) => ({ from, to }))
  const unused = context.strategy === 'fail' && (lines.length > 0 || context.conflicts.size > 0)
  return { content: unused ? first.value.content : await context.files.write(bytes), lines }
}

export const readNode = async (
  { files, image }: Pick<MergeContext, 'files' | 'image'>,
  node: FileNode,
): Promise<Uint8Array> => (await image.fileOf(node.content)?.read()) ?? files.read(node)

/**
 * A node that a line of a tree can tell: the content of an image's file is stored, since it goes where the image has something
 * else. Undefined: it is too large for that.
 */
export const grounded = async (context: MergeContext, node: Node): Promise<Node | undefined> => {
  if (node.type !== 'file' || (context.strategy === 'fail' && context.conflicts.size > 0)) return node
  const file = context.image.fileOf(node.content)
  if (file === undefined) return node
  if (file.sizeBytes > LIMITS.maxMergeTextBytes.value) return undefined
  return { ...node, content: await context.files.write(await file.read()) }
}
