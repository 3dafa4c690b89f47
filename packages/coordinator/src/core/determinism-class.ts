import type { Comparator } from '@bramble/protocol'
import { type Group, groupsOf } from './groups.ts'
import type { ExecutionState, JobState } from './job-state.ts'

const NEARLY: Comparator = { type: 'fuzzy', absolute: 0, relative: 1e-9, fields: {}, ignore: [] }

/**
 * What results of one job say of it. With a verdict, only those that agree are asked: somebody who lies must not make a job
 * look as if its results differed by nature.
 */
export const determinismClassOf = (
  voters: readonly ExecutionState[],
  winner?: Group,
): NonNullable<JobState['determinismClass']> => {
  const members = winner?.members ?? voters
  if (groupsOf(members, { type: 'exact' }).length === 1) return 'exact'
  return winner !== undefined || groupsOf(members, NEARLY).length === 1 ? 'fuzzy' : 'none'
}
