import type { ExecutionId, JobId, JobRequestInput, NodeId, SignedReceipt } from '@bramble/protocol'
import { jobRequestSchema } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import { resultOf } from '../testing/test-network.ts'
import type { Effect, JobEventRecord, JobState, Standing } from './job-state.ts'
import { DEFAULT_VERIFICATION, type VerificationConfig } from './policy.ts'
import { transition } from './transition.ts'

/** A job taken by the hand. Nodes named in capitals are established. */
const open = (form: Partial<JobRequestInput>, options: { auditDraw?: number; config?: VerificationConfig } = {}) => {
  const { auditDraw = 0.5, config = DEFAULT_VERIFICATION } = options
  let job: JobState | undefined
  let now = 0
  const effects: Effect[] = []
  const send = (event: JobEventRecord, anchors = true): JobState => {
    const step = transition(job, event, { now: ++now, config, anchors })
    effects.push(...step.effects)
    job = step.job
    return job
  }
  const request = jobRequestSchema.parse({ command: 'true', ...form })
  send({ type: 'submitted', id: 'job_1' as JobId, tenant: 't', request, auditDraw, relaxed: [] })
  const standing = (name: string): Standing => ({
    ...{ node: name as NodeId, owner: name, machine: name, subnet: name },
    established: name === name.toUpperCase(),
    agreements: name === name.toUpperCase() ? 50 : 0,
  })
  const state = (): JobState => {
    if (job === undefined) throw new Error('nothing was submitted')
    return job
  }
  const tokenOf = (name: string): number => state().executions.find(({ id }) => id === name)?.token ?? 0
  return {
    effects,
    send,
    state,
    place: (...names: string[]) => {
      for (const name of names) send({ type: 'placed', execution: name as ExecutionId, standing: standing(name) })
    },
    commit: (name: string, answer = 'yes', status: 'succeeded' | 'timeout' = 'succeeded') =>
      send({
        ...{ type: 'committed', execution: name as ExecutionId, token: tokenOf(name) },
        ...{ inputHash: 'i', resultHash: answer, receipt: {} as SignedReceipt },
        result: { ...resultOf(answer), status, exitCode: status === 'succeeded' ? 0 : null },
      }),
    expire: (name: string, as: 'timeout' | 'lost' = 'lost') =>
      send({ type: 'expired', execution: name as ExecutionId, token: tokenOf(name), as }),
    wanted: () => state().wanted.map(({ reason, established }) => (established ? `${reason}!` : reason)),
    kinds: (name: string) => effects.flatMap((e) => (e.type === 'reputation' && e.execution === name ? [e.kind] : [])),
  }
}

describe('a quorum', () => {
  it('asks k, of whom the last must be established if nobody is; and pays those who agree', () => {
    const job = open({ creditsRequired: 7 })
    expect(job.wanted()).toEqual(['first', 'first'])
    job.place('a')
    expect(job.wanted()).toEqual(['first!'])
    job.place('B')
    job.commit('a')
    expect(job.state().status).toBe('verifying')
    job.commit('B')
    expect(job.state()).toMatchObject({ status: 'completed', creditsSpent: 14, canonical: 'a' })
    expect([job.kinds('a'), job.kinds('B')]).toEqual([['agreed'], ['agreed']])
  })

  it('asked eagerly stops the rest', () => {
    const job = open({ strategy: 'eager', redundancy: 3 })
    job.place('A', 'b', 'c')
    job.commit('A')
    job.commit('b')
    expect(job.state().executions.map(({ validity }) => validity)).toEqual(['agreed', 'agreed', 'unneeded'])
    expect(job.effects).toContainEqual(expect.objectContaining({ type: 'stop', execution: 'c', token: 3 }))
  })

  it('asks one more where results differ, and convicts who lied', () => {
    const job = open({})
    job.place('A', 'b')
    job.commit('A')
    job.commit('b', 'no')
    expect(job.wanted()).toEqual(['disagreement'])
    job.place('c')
    job.commit('c')
    expect(job.state().status).toBe('completed')
    expect(job.kinds('b')).toEqual(['disagreed', 'convicted'])
  })

  it('among newcomers convicts nobody, and decides only where no established node can be asked', () => {
    const job = open({})
    job.send({ type: 'placed', execution: 'a' as ExecutionId, standing: nobody('a') }, false)
    job.send({ type: 'placed', execution: 'b' as ExecutionId, standing: nobody('b') }, false)
    job.commit('a')
    job.commit('b')
    expect(job.wanted()).toEqual(['anchor!'])
    const waiting = { nodes: 2, busy: 0, stopped: {}, message: '', since: '' }
    job.send({ type: 'waiting', waiting }, false)
    expect(job.state()).toMatchObject({ status: 'completed', wanted: [] })
  })

  it('of established nodes that differ takes a lead of two', () => {
    const job = open({})
    job.place('A', 'B')
    job.commit('A')
    job.commit('B', 'no')
    job.place('c')
    job.commit('c', 'no')
    expect(job.state().status).toBe('verifying')
    job.place('D')
    job.commit('D')
    for (const name of ['E', 'F']) {
      expect(job.state().status).toBe('verifying')
      expect(job.wanted()).toEqual(['anchor!'])
      job.place(name)
      job.commit(name)
      if (job.state().status === 'completed') break
    }
    expect(job.state().status).toBe('completed')
    expect(job.kinds('B')).toContain('convicted')
    expect(job.kinds('A')).toEqual(['agreed'])
  })

  it('asks again for what was lost, and gives up when too much fails, punishing nobody', () => {
    const job = open({ redundancy: 1 })
    for (let round = 0; round < 20; round++) {
      job.place(`n${round}`)
      job.expire(`n${round}`)
    }
    expect(job.state().status).toBe('scheduled')
    for (let round = 0; round < 5; round++) {
      job.place(`m${round}`)
      job.expire(`m${round}`, 'timeout')
    }
    expect(job.state()).toMatchObject({ status: 'failed', wanted: [] })
    const split = open({ redundancy: 2 })
    for (let round = 0; split.state().status !== 'no_consensus'; round++) {
      split.place(`N${round}`, `M${round}`)
      split.commit(`N${round}`, `n${round}`)
      split.commit(`M${round}`, `m${round}`)
      expect(round).toBeLessThan(9)
    }
    expect(split.state().executions).toHaveLength(8)
    expect(split.effects.filter(({ type }) => type === 'reputation' || type === 'pay')).toEqual([])
  })

  it('takes no time-out of a slow node for a lie', () => {
    const job = open({})
    job.place('A', 'B')
    job.commit('A')
    job.commit('B', 'slow', 'timeout')
    for (const name of ['C', 'D']) if (job.wanted().length > 0) [job.place(name), job.commit(name)]
    expect(job.state().status).toBe('completed')
    expect(job.kinds('B')).toEqual(['timeout'])
  })
})

const nobody = (name: string): Standing => ({
  ...{ node: name as NodeId, owner: name, machine: name, subnet: name, established: false, agreements: 0 },
})

describe('a fast job', () => {
  it('is decided by one proven node, provisionally, which raises no trust', () => {
    const job = open({ policy: 'fast' })
    job.place('A')
    expect(job.wanted()).toEqual([])
    job.commit('A')
    expect(job.state()).toMatchObject({ status: 'completed', verification: { decidedBy: 'alone', needed: 1 } })
    expect(job.kinds('A')).toEqual(['alone'])
    expect(job.effects).toContainEqual(expect.objectContaining({ type: 'provisional', node: 'A' }))
  })

  it('is a quorum when it is audited, or nobody proven took it first', () => {
    const audited = open({ policy: 'fast' }, { auditDraw: 0.05 })
    audited.place('A')
    expect(audited.wanted()).toEqual(['audit'])
    const unknown = open({ policy: 'fast' })
    unknown.place('a')
    expect(unknown.wanted()).toEqual(['first!'])
    const slow = open({ policy: 'fast' })
    slow.place('A')
    slow.commit('A', 'slow', 'timeout')
    expect(slow.wanted()).toHaveLength(1)
  })

  it('is asked again when its node is convicted; the old result stays until the new one, which corrects it', () => {
    const job = open({ policy: 'fast', redundancy: 2, creditsRequired: 1 })
    job.place('A')
    job.commit('A', 'lie')
    job.send({ type: 'reopened', node: 'A' as NodeId })
    expect(job.state()).toMatchObject({ status: 'verifying', canonical: 'A', reopened: 1 })
    expect(job.wanted()).toEqual(['again', 'again'])
    job.place('B', 'c')
    job.commit('B')
    job.commit('c')
    expect(job.state()).toMatchObject({ status: 'completed', canonical: 'B', verification: { corrected: true } })
    expect(job.kinds('A')).toEqual(['alone', 'disagreed'])
    expect(job.effects).toContainEqual(expect.objectContaining({ type: 'corrected', resultHash: 'yes' }))
    expect(job.effects.filter(({ type }) => type === 'release')).toHaveLength(2)
  })

  it('that is not decided yet leaves out what a convicted node did', () => {
    const job = open({ policy: 'fast' })
    job.place('A')
    job.send({ type: 'reopened', node: 'A' as NodeId })
    expect(job.effects).toContainEqual(expect.objectContaining({ type: 'stop', execution: 'A' }))
    expect(job.wanted()).toEqual(['again'])
  })

  it('whose node is slow asks one more, who may decide it alone too', () => {
    const job = open({ policy: 'fast' })
    job.place('A')
    const straggling = { type: 'straggling', execution: 'A' as ExecutionId } as const
    job.send(straggling)
    job.send(straggling)
    expect(job.wanted()).toEqual(['straggler!'])
    job.place('B')
    job.send(straggling)
    job.commit('B')
    expect(job.state()).toMatchObject({ status: 'completed', canonical: 'B', verification: { decidedBy: 'alone' } })
    expect(job.state().executions).toHaveLength(2)
  })
})

it('a paranoid job asks one after another until they are credible', () => {
  const job = open({ policy: 'paranoid', confidence: 0.999 })
  for (const name of ['A', 'b', 'c', 'd', 'e']) {
    if (job.state().status === 'completed') break
    expect(job.wanted()).toHaveLength(1)
    job.place(name)
    job.commit(name)
  }
  expect(job.state()).toMatchObject({ status: 'completed', verification: { decidedBy: 'credibility' } })
  expect(job.state().verification?.credibility).toBeGreaterThanOrEqual(0.999)
})

describe('a check of determinism', () => {
  it('says how far results are the same', () => {
    const same = open({ policy: 'fast', determinism: 'check' })
    same.place('A', 'B')
    same.commit('A')
    expect(same.state().status).toBe('verifying')
    same.commit('B')
    expect(same.state().determinismClass).toBe('exact')
    const fuzzy = { comparator: { type: 'fuzzy', relative: 0.1 }, determinism: 'check' } as const
    const near = open(fuzzy)
    near.place('A', 'B')
    near.commit('A', '{"x":1}')
    near.commit('B', '{"x":1.01}')
    expect(near.state()).toMatchObject({ status: 'completed', determinismClass: 'fuzzy' })
  })

  it('of results that all differ is no proof against anybody', () => {
    const job = open({ determinism: 'check' })
    for (const name of ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H']) {
      job.place(name)
      if (job.state().executions.some(({ id }) => id === name)) job.commit(name, `[${name.charCodeAt(0)}]`)
    }
    expect(job.state()).toMatchObject({ status: 'no_consensus', determinismClass: 'none' })
  })
})
