import { jobRequestSchema } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import type { ExecutionState, JobState } from '../core/job-state.ts'
import { DurationSketch } from './duration-sketch.ts'
import { holdsUpVerdict, kindOf, stragglers } from './stragglers.ts'
import { jobIdAt, placedNode, seededRandom, standingOf } from './testing.ts'

const execution = (index: number, status: ExecutionState['status']): ExecutionState => ({
  id: `exe_${index}` as ExecutionState['id'],
  token: index,
  reason: 'first',
  standing: standingOf(placedNode(index)),
  alone: false,
  status,
  validity: 'undecided',
  placedAt: 0,
})

const job = (fields: Partial<JobState> = {}, command: string | string[] = './score 1'): JobState => ({
  id: jobIdAt(1),
  tenant: 't',
  request: jobRequestSchema.parse({ image: 'base', command }),
  status: 'running',
  createdAt: 0,
  auditDraw: 0.5,
  relaxed: [],
  lastToken: 2,
  executions: [],
  wanted: [],
  reopened: 0,
  roundToken: 0,
  creditsSpent: 0,
  lastSeq: 1,
  ...fields,
})

describe('DurationSketch', () => {
  it('knows quantiles within five percent, from milliseconds to a day', () => {
    for (const scale of [20, 3000, 80_000_000]) {
      const random = seededRandom(scale)
      const sketch = new DurationSketch()
      const samples = Array.from({ length: 900 }, () => scale * (0.05 + 0.95 * random()))
      for (const ms of samples) sketch.add(ms)
      samples.sort((a, b) => a - b)
      for (const q of [0.5, 0.95]) {
        const exact = samples[Math.floor(q * samples.length)] ?? 0
        expect(Math.abs(sketch.quantile(q) - exact) / exact).toBeLessThan(0.08)
      }
    }
  })

  it('follows what changed, and counts no further than its bound', () => {
    const sketch = new DurationSketch()
    for (let count = 0; count < 100_000; count++) sketch.add(10)
    for (let count = 0; count < 3000; count++) sketch.add(1000)
    expect(sketch.quantile(0.5)).toBeGreaterThan(900)
    expect(sketch.total).toBeLessThanOrEqual(1024)
    expect(new DurationSketch().quantile(0.5)).toBe(0)
  })
})

describe('stragglers', () => {
  it('says when one is late once enough others have ended', () => {
    const late = stragglers()
    for (let count = 0; count < 19; count++) late.ended('a', 2000)
    expect(late.lateAfterMs('a')).toBeUndefined()
    late.ended('a', 2000)
    expect(late.lateAfterMs('a')).toBeGreaterThan(3800)
    expect(late.lateAfterMs('a')).toBeLessThan(4200)
    expect(late.lateAfterMs('b')).toBeUndefined()
    // A wide spread: p95 is later than twice the median.
    for (let count = 0; count < 100; count++) late.ended('wide', count < 80 ? 1000 : 60_000)
    expect(late.lateAfterMs('wide')).toBeGreaterThan(55_000)
  })

  it('allows one copy for each twenty executions, and saves up no more than twenty', () => {
    const late = stragglers()
    expect(late.takeCopy()).toBe(false)
    let copies = 0
    for (let count = 1; count <= 1000; count++) {
      late.placed()
      if (late.takeCopy()) copies++
      expect(copies).toBeLessThanOrEqual(count / 20 + 1e-6)
    }
    expect(copies).toBe(50)
    for (let count = 0; count < 10_000; count++) late.placed()
    let saved = 0
    while (late.takeCopy()) saved++
    expect(saved).toBe(20)
  })

  it('remembers a bounded number of kinds', () => {
    const late = stragglers()
    for (let count = 0; count < 20; count++) late.ended('old', 100)
    expect(late.lateAfterMs('old')).toBe(1000)
    for (let kind = 0; kind < 1024; kind++) late.ended(`kind ${kind}`, 100)
    expect(late.lateAfterMs('old')).toBeUndefined()
  })

  it('takes jobs of one program and size as one kind', () => {
    expect(kindOf(job())).toBe(kindOf(job({}, './score 2')))
    expect(kindOf(job())).toBe(kindOf(job({}, ['./score', '3'])))
    expect(kindOf(job())).not.toBe(kindOf(job({}, './train')))
  })

  it('asks for no copy unless the verdict waits for that one alone', () => {
    const slow = execution(2, 'running')
    expect(holdsUpVerdict(job({ executions: [execution(1, 'completed'), slow] }), slow)).toBe(true)
    expect(holdsUpVerdict(job({ executions: [execution(1, 'running'), slow] }), slow)).toBe(false)
    expect(holdsUpVerdict(job({ executions: [slow], wanted: [{ reason: 'retry', established: false }] }), slow)).toBe(
      false,
    )
    expect(holdsUpVerdict(job({ executions: [slow], status: 'completed' }), slow)).toBe(false)
    expect(holdsUpVerdict(job({ executions: [execution(1, 'leased')] }), execution(1, 'leased'))).toBe(false)
  })
})
