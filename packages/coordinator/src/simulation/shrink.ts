import { type Faults, type Limits, scenarioOf } from './scenario.ts'
import type { Outcome } from './simulate.ts'

/** Leaves out of a failing seed what it fails without: fewer faults, jobs and nodes, until nothing more can go. */
export const shrink = async (seed: number, run: (limits: Limits) => Promise<Outcome>): Promise<Limits> => {
  const { faults, tempers, jobs } = scenarioOf(seed)
  let limits: { nodes: number; jobs: number; faults: Partial<Faults> } = { nodes: tempers.length, jobs, faults }
  const tryWith = async (smaller: typeof limits): Promise<boolean> => {
    if ((await run(smaller)).violations.length === 0) return false
    limits = smaller
    return true
  }
  for (const kind of Object.keys(faults) as (keyof Faults)[])
    while ((limits.faults[kind] ?? 0) > 0)
      if (!(await tryWith({ ...limits, faults: { ...limits.faults, [kind]: (limits.faults[kind] ?? 0) - 1 } }))) break
  while (limits.nodes > 3) if (!(await tryWith({ ...limits, nodes: limits.nodes - 1 }))) break
  while (limits.jobs > 1) if (!(await tryWith({ ...limits, jobs: limits.jobs - 1 }))) break
  return limits
}
