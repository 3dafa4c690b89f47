import { BrambleError, type ExecutionId, executionIdSchema, instanceIdSchema, toBrambleError } from '@bramble/protocol'
import type { Context } from './context.ts'
import { findLocal, findSnapshot } from './registry.ts'

/** A state that somebody named: an instance, or a snapshot by its hash. */
export interface FoundState {
  readonly kind: 'instance' | 'snapshot'
  readonly id: string
}

const isMissing = (error: unknown): boolean => toBrambleError(error).code === 'not_found'

/** An instance or a snapshot, or what an execution left. A name is looked for among instances first. */
export const findState = async (context: Context, ref: string, tenant: string): Promise<FoundState> => {
  if (executionIdSchema.safeParse(ref).success) return await ofExecution(context, ref as ExecutionId, tenant)
  if (instanceIdSchema.safeParse(ref).success) {
    const { id } = await context.instances.get(ref, tenant)
    return { kind: 'instance', id }
  }
  const instance = await context.instances.get(ref, tenant).catch((error: unknown) => {
    if (!isMissing(error)) throw error
    return undefined
  })
  // An instance of this node is continued whether the store answers or not.
  if (instance) {
    if ((await findLocal(context, ref, tenant))?.name === ref)
      throw new BrambleError('conflict', {
        detail: `there is an instance \`${ref}\` and a snapshot \`${ref}\`: give the id of the one that is meant`,
      })
    return { kind: 'instance', id: instance.id }
  }
  const { hash } = await findSnapshot(context, ref, tenant).catch((error: unknown) => {
    if (!isMissing(error)) throw error
    throw new BrambleError('not_found', { detail: `there is no instance and no snapshot ${ref}` })
  })
  return { kind: 'snapshot', id: hash }
}

const ofExecution = async (context: Context, id: ExecutionId, tenant: string): Promise<FoundState> => {
  const { result } = await context.executions.find(id, tenant)
  if (result?.snapshotId !== undefined) return { kind: 'snapshot', id: result.snapshotId }
  if (result?.instanceId !== undefined) return { kind: 'instance', id: result.instanceId }
  throw new BrambleError('conflict', {
    detail: result
      ? `the execution ${id} left no state: its mode must be \`checkpointed\`, \`branched\` or \`persistent\``
      : `the execution ${id} has no result yet`,
  })
}
