import { type Branch, type InstanceId, instanceIdSchema, parse, toBrambleError } from '@bramble/protocol'
import { branchesOf, childrenOf } from '../store/branches.ts'
import type { BranchRow } from '../store/snapshot-tables.ts'
import type { Context } from './context.ts'
import type { BranchQuery } from './snapshots.ts'
import { findState } from './state-ref.ts'

/** Instances and snapshots that are looked at to find what descends from one. */
const MAX_DESCENDANTS = 10_000

/** Branches of a tenant, oldest first: all of them, or those that descend from `parent` at any depth. */
export const listBranches = async (
  context: Context,
  { tenant, limit, cursor, parent }: BranchQuery,
): Promise<{ items: Branch[]; nextCursor: string | null }> => {
  const after = cursor === undefined ? '' : parse(instanceIdSchema, cursor)
  const among = parent === undefined ? undefined : await descendants(context, tenant, parent)
  const rows = among
    ? among.filter(({ instance_id }) => instance_id > after).slice(0, limit + 1)
    : await branchesOf(context.db, tenant, after, limit + 1)
  const items = await Promise.all(rows.slice(0, limit).map((row) => branchOf(context, row)))
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.instanceId ?? null) : null }
}

/** In the order of their ids, which is that of their making. */
const descendants = async (context: Context, tenant: string, parent: string): Promise<BranchRow[]> => {
  const found = new Map<string, BranchRow>()
  const seen = new Set<string>()
  let next = [await idOf(context, tenant, parent)]
  while (next.length > 0 && seen.size < MAX_DESCENDANTS) {
    for (const id of next) seen.add(id)
    const { branches, snapshots } = await childrenOf(context.db, tenant, next)
    for (const row of branches) found.set(row.instance_id, row)
    const ids = [...branches.map(({ instance_id }) => instance_id), ...snapshots]
    next = [...new Set(ids)].filter((id) => !seen.has(id))
  }
  return [...found.values()].sort((left, right) => (left.instance_id < right.instance_id ? -1 : 1))
}

/** What is not there any more still has descendants. */
const idOf = async (context: Context, tenant: string, ref: string): Promise<string> => {
  try {
    return (await findState(context, ref, tenant)).id
  } catch (error) {
    if (toBrambleError(error).code !== 'not_found') throw error
    return ref
  }
}

const branchOf = async ({ instances }: Context, row: BranchRow): Promise<Branch> => {
  const instance = await instances.get(row.instance_id, row.tenant).catch((error: unknown) => {
    if (toBrambleError(error).code !== 'not_found') throw error
    return undefined
  })
  return {
    instanceId: row.instance_id as InstanceId,
    parent: row.parent,
    parentKind: row.parent_kind,
    createdAt: row.created_at,
    memory: row.memory === 1,
    ...(instance && { instance }),
  }
}
