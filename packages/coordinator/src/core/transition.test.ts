import { describe, expect, it } from 'vitest'
import { runScenario } from '../testing/job-scenarios.ts'
import { standingsInUse } from './groups.ts'
import type { JobState } from './job-state.ts'
import { transition } from './transition.ts'
import { evidenceView, executionView, jobView } from './views.ts'

const SEEDS = 4000
const parts = { transition, standingsInUse, jobView, executionView, evidenceView }

describe('any course of events', () => {
  it(`keeps what must hold, in ${SEEDS} jobs`, () => {
    const ends = new Map<string, number>()
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { job, violations } = runScenario(seed, parts)
      expect(violations, `seed ${seed}`).toEqual([])
      const end = `${job.status} ${job.verification?.decidedBy ?? ''}${job.verification?.corrected ? ' corrected' : ''}`
      ends.set(end, (ends.get(end) ?? 0) + 1)
    }
    // The seeds reach every way in which a job can end.
    for (const end of ['quorum', 'alone', 'audit', 'credibility', 'quorum corrected'])
      expect(ends.get(`completed ${end}`) ?? 0, end).toBeGreaterThan(5)
    for (const end of ['failed ', 'cancelled ', 'no_consensus ']) expect(ends.get(end) ?? 0, end).toBeGreaterThan(5)
  })

  it('is the same when it is replayed from the log', () => {
    for (let seed = 1; seed <= SEEDS / 10; seed++) {
      const { job, log } = runScenario(seed, parts)
      let replayed: JobState | undefined
      for (const { event, context } of JSON.parse(JSON.stringify(log))) {
        const state: JobState | undefined = replayed && JSON.parse(JSON.stringify(replayed))
        replayed = transition(state, event, context).job
      }
      expect(replayed, `seed ${seed}`).toStrictEqual(JSON.parse(JSON.stringify(job)))
    }
  })
})
