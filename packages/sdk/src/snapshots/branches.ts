import {
  type BranchesRequestInput,
  type Branch as BranchRecord,
  branchesResponseSchema,
  branchSchema,
  pageSchema,
} from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import type { Instance } from '../instances/instance.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import type { Transport } from '../transport.ts'
import { refOf, type StateRef } from './state-ref.ts'
import { given, making } from './take.ts'

/** What branches are made with, beside how many. Without `memory`, processes go on in them where that works. */
export type BranchOptions = Omit<BranchesRequestInput, 'parent' | 'count' | 'commands'> & CallOptions

/** How many branches, or a command for each: then the answer waits until all of them have run. */
export type BranchWish =
  | { readonly count: number; readonly commands?: undefined }
  | { readonly commands: readonly string[]; readonly count?: undefined }

/** A branch that was made; `result` is that of its command. */
export type MadeBranch = Omit<BranchRecord, 'instance'> & { readonly instance: Instance }

/** `frozenMs`: how long the parent stood still for them. */
export interface MadeBranches {
  readonly items: MadeBranch[]
  readonly frozenMs?: number | undefined
}

export interface BranchesQuery extends ListQuery {
  /** What descends from it, at any depth. */
  readonly parent?: StateRef | undefined
}

/** Instances that continued from another's state. */
export interface Branches {
  create(parent: StateRef, wish: BranchWish & BranchOptions): Promise<MadeBranches>
  /** Oldest first. */
  list(query?: BranchesQuery): PagedList<BranchRecord>
}

const PATH = '/api/v1/branches'
const branchPage = pageSchema(branchSchema)

export type ToInstance = (record: NonNullable<BranchRecord['instance']>) => Instance

/** `path` is that of all branches, or of those of one instance; `parent` is in the body of the first. */
export const makeBranches = async (
  transport: Transport,
  { path = PATH, parent, toInstance }: { path?: string; parent?: string; toInstance: ToInstance },
  { signal, requestTimeoutMs, ...wish }: BranchWish & BranchOptions,
): Promise<MadeBranches> => {
  const request = making(path, { parent, ...wish }, given({ signal, requestTimeoutMs }))
  const { items, frozenMs } = await transport.json(request, branchesResponseSchema)
  const made = items.flatMap(({ instance, ...rest }) =>
    instance === undefined ? [] : [{ ...rest, instance: toInstance(instance) }],
  )
  return { items: made, ...(frozenMs !== undefined && { frozenMs }) }
}

export const branches = (transport: Transport, toInstance: ToInstance): Branches => ({
  create: (parent, wish) => makeBranches(transport, { parent: refOf(parent), toInstance }, wish),
  list: (query = {}) => {
    const { parent, ...options } = query
    const of = parent === undefined ? undefined : refOf(parent)
    return pagedList(transport, PATH, branchPage, { parent: of }, options)
  },
})
