/**
 * Something to continue from: an instance, a snapshot, or the result of an execution or a command that left either; or the
 * id, the name, or the beginning of a snapshot's hash.
 */
export type StateRef =
  | string
  | { readonly id: string; readonly snapshotId?: string | undefined; readonly instanceId?: string | undefined }
  | { readonly instanceId: string }

/** As the node knows it. */
export const refOf = (state: StateRef): string => {
  if (typeof state === 'string') return state
  if ('snapshotId' in state && state.snapshotId !== undefined) return state.snapshotId
  if (state.instanceId !== undefined) return state.instanceId
  return 'id' in state ? state.id : ''
}
