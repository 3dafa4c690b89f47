import type { Comparator } from '@bramble/protocol'
import { isOfRound, isOpen } from './change.ts'
import { fuzzyMatcher } from './comparator.ts'
import type { ExecutionState, JobState, Standing } from './job-state.ts'

/** Results that are the same, first the one that stands for them. */
export interface Group {
  readonly canonical: ExecutionState
  /** In order of arrival. */
  readonly members: readonly ExecutionState[]
  readonly established: boolean
}

const KINDS = ['owner', 'machine', 'subnet'] as const

/** Whether two executions may both count: never of one node, nor of one owner, machine or subnet unless that is relaxed. */
const areApart = (a: Standing, b: Standing, relaxed: readonly string[]): boolean =>
  a.node !== b.node && KINDS.every((kind) => a[kind] !== b[kind] || relaxed.includes(kind))

const byArrival = (a: ExecutionState, b: ExecutionState): number =>
  (a.finishedAt ?? 0) - (b.finishedAt ?? 0) || a.token - b.token

export interface Counting {
  /** Committed and undecided, in order of arrival. */
  readonly voters: readonly ExecutionState[]
  readonly open: readonly ExecutionState[]
}

/**
 * The executions of this round whose result counts, or will. Placement keeps them apart; one that is not apart from another
 * is left out here too, so that no fault of placement gives somebody two votes.
 */
export const countingOf = (job: JobState): Counting => {
  const voters: ExecutionState[] = []
  const open: ExecutionState[] = []
  const committed = job.executions
    .filter(
      (execution) =>
        isOfRound(job, execution) && execution.status === 'completed' && execution.validity === 'undecided',
    )
    .sort(byArrival)
  const isApart = ({ standing }: ExecutionState): boolean =>
    voters.every((other) => areApart(standing, other.standing, job.relaxed)) &&
    open.every((other) => areApart(standing, other.standing, job.relaxed))
  for (const execution of committed) if (isApart(execution)) voters.push(execution)
  for (const execution of job.executions) if (isOpen(execution) && isApart(execution)) open.push(execution)
  return { voters, open }
}

const groupOf = (canonical: ExecutionState, members: readonly ExecutionState[]): Group => ({
  canonical,
  members,
  established: members.some(({ standing }) => standing.established),
})

type Same = (a: ExecutionState, b: ExecutionState) => boolean

const sameBy = (comparator: Comparator): Same => {
  // Whether output was cut is not in the hash, and is shown: nobody says it alone.
  const exact: Same = (a, b) =>
    a.inputHash === b.inputHash && a.resultHash === b.resultHash && a.result?.truncated === b.result?.truncated
  if (comparator.type === 'exact') return exact
  const match = fuzzyMatcher(comparator)
  return (a, b) =>
    exact(a, b) ||
    (a.inputHash === b.inputHash && a.result !== undefined && b.result !== undefined && match(a.result, b.result))
}

export const isSame = (a: ExecutionState, b: ExecutionState, comparator: Comparator): boolean =>
  sameBy(comparator)(a, b)

/**
 * Voters by what they say, the largest group first, of equal ones the earlier. Nearness is not transitive, so a fuzzy group
 * is all that is near one of them, the one with the most around it.
 */
export const groupsOf = (voters: readonly ExecutionState[], comparator: Comparator): Group[] => {
  const same = sameBy(comparator)
  const groups: Group[] = []
  let left = [...voters]
  while (left.length > 0) {
    let best: readonly ExecutionState[] = []
    let centre = left[0]
    for (const candidate of left) {
      const around = left.filter((other) => same(candidate, other))
      if (around.length <= best.length) continue
      best = around
      centre = candidate
    }
    if (centre === undefined) break
    groups.push(groupOf(centre, best))
    const taken = best
    left = left.filter((voter) => !taken.includes(voter))
  }
  return groups
}

/**
 * Standings that a further execution must be apart from (`ChooseRequest.others`): of all that count or may, those that
 * decided an earlier round, and those whose result can still come late.
 */
export const standingsInUse = (job: JobState): Standing[] =>
  job.executions
    .filter(({ validity }) => validity === 'undecided' || validity === 'agreed' || validity === 'disagreed')
    .map(({ standing }) => standing)

/** Nodes that had their turn and gave nothing that counts (`ChooseRequest.failed`). */
export const nodesThatFailed = (job: JobState): Standing['node'][] =>
  job.executions
    .filter(({ validity }) => validity === 'invalid' || validity === 'inconclusive' || validity === 'late')
    .map(({ standing }) => standing.node)
