import type { BlobHash } from '@bramble/protocol'
import { headOf, parentsOf } from '../store/snapshots.ts'
import type { Context } from './context.ts'

/** States that are looked at to find what others descend from. */
const MAX_STATES = 4096

/** A state and all that it descends from, nearest first. */
const ancestry = async ({ db }: Context, tenant: string, states: readonly string[]): Promise<Map<string, number>> => {
  const depths = new Map<string, number>()
  let next = [...new Set(states)]
  for (let depth = 0; next.length > 0 && depths.size < MAX_STATES; depth++) {
    const parents = new Set<string>()
    for (const state of next) {
      if (depths.has(state)) continue
      depths.set(state, depth)
      for (const parent of await parentsOf(db, tenant, state)) parents.add(parent)
    }
    next = [...parents].filter((state) => !depths.has(state))
  }
  return depths
}

/**
 * What all have in common, nearest first: states that each of them is or descends from. One that others of them descend
 * from comes after these.
 */
export const commonStates = async (
  context: Context,
  tenant: string,
  heads: readonly (readonly string[])[],
): Promise<string[]> => {
  const [first, ...others] = await Promise.all(heads.map((states) => ancestry(context, tenant, states)))
  if (!first) return []
  const common = [...first.keys()].filter((state) => others.every((depths) => depths.has(state)))
  const farness = (state: string): number =>
    [first, ...others].reduce((sum, depths) => sum + (depths.get(state) ?? 0), 0)
  return common.sort((left, right) => farness(left) - farness(right))
}

/** The newest state that is known of an instance, as a list: none where it began as its image. */
export const headsOf = async ({ db }: Context, instance: string): Promise<string[]> => {
  const head = await headOf(db, instance)
  return head === undefined ? [] : [head]
}

/** The nearest snapshot among those states and what they descend from. */
export const nearestSnapshot = async (
  context: Context,
  tenant: string,
  states: readonly string[],
): Promise<BlobHash | undefined> => {
  for (const state of (await ancestry(context, tenant, states)).keys()) if (isSnapshot(state)) return state
  return undefined
}

/** Names of seals are shorter than hashes. */
export const isSnapshot = (state: string): state is BlobHash => /^[0-9a-f]{64}$/.test(state)
