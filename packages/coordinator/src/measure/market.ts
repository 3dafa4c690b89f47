import {
  type ExecutionId,
  type JobId,
  type JobRequest,
  type JobResult,
  jobHasEnded,
  type NodeId,
  type SignedReceipt,
} from '@bramble/protocol'
import type { ExecutionState, JobEventRecord, JobState, Standing } from '../core/job-state.ts'
import type { VerificationConfig } from '../core/policy.ts'
import { transition } from '../core/transition.ts'
import { foldTrust, type TrustState } from '../reputation/trust.ts'
import type { Random } from '../testing/random.ts'
import type { Attack } from './attacks.ts'
import type { Measured } from './policies.ts'

interface Node {
  readonly id: NodeId
  readonly lies: boolean
  readonly anchor: boolean
  trust: TrustState | undefined
}

export interface MarketOptions {
  readonly request: JobRequest
  readonly config: VerificationConfig
  readonly attack: Attack
  readonly random: Random
  readonly nodes: number
  readonly anchors: number
}

export interface Market {
  /** One job, and all that is asked again because of it. */
  runJob(): void
  counts(): Omit<Measured, 'policy' | 'attack' | 'jobs'>
}

const TRUTH = 'truth'
const LIE = 'lie'
const HONEST_WAIT_JOBS = 1000
const RESULT = { status: 'succeeded', exitCode: 0, truncated: false, outputs: {} } as unknown as JobResult
const RECEIPT = {} as SignedReceipt

/** A network in which placement is chance: each node an owner of its own, a convicted one out of it. */
export const openMarket = ({ request, config, attack, random, nodes, anchors }: MarketOptions): Market => {
  const byId = new Map<NodeId, Node>()
  let active: Node[] = []
  let established: Node[] = []
  let waiting: { readonly at: number; readonly lies: boolean }[] = []
  /** Jobs that a node decided alone, the latest last. */
  const lone = new Map<NodeId, JobState[]>()
  const verdicts = { wrongAtFirst: 0, wrongAtLast: 0, noConsensus: 0, reopened: 0 }
  const convicted = { liarsConvicted: 0, honestConvicted: 0 }
  let executions = 0
  let jobs = 0
  let names = 0

  const addNode = (lies: boolean, anchor: boolean): void => {
    const node: Node = { id: `0x${(names++).toString(16).padStart(40, '0')}` as NodeId, lies, anchor, trust: undefined }
    byId.set(node.id, node)
    active.push(node)
    if (anchor) established.push(node)
  }
  for (let index = 0; index < nodes; index++) addNode(index < nodes * attack.liars, index >= nodes - anchors)

  const isEstablished = ({ anchor, trust }: Node): boolean =>
    anchor || (trust?.agreements ?? 0) >= config.establishedAgreements
  const standingOf = (node: Node): Standing => ({
    ...{ node: node.id, owner: node.id, machine: node.id, subnet: node.id },
    established: isEstablished(node),
    agreements: node.anchor
      ? Math.max(config.establishedAgreements, node.trust?.agreements ?? 0)
      : (node.trust?.agreements ?? 0),
  })
  const isIn = (job: JobState, { id }: Node): boolean => job.executions.some(({ standing }) => standing.node === id)

  const choose = (job: JobState, mustBeEstablished: boolean): Node | undefined => {
    const from = mustBeEstablished ? established : active
    if (from.length <= job.executions.length) return from.find((node) => !isIn(job, node))
    for (;;) {
      const node = random.pick(from)
      if (!isIn(job, node)) return node
    }
  }

  const convictions: Node[] = []
  const send = (job: JobState | undefined, event: JobEventRecord): JobState => {
    const used = job?.executions.filter(({ standing }) => standing.established).length ?? 0
    const context = { now: jobs, config, anchors: established.length > used }
    const step = transition(job, event, context)
    for (const effect of step.effects) {
      if (effect.type === 'provisional') lone.set(effect.node, [...lateOf(effect.node), step.job])
      if (effect.type !== 'reputation') continue
      const node = byId.get(effect.node)
      if (node === undefined) continue
      const before = isEstablished(node)
      node.trust = foldTrust(node.trust, effect, config)
      if (!before && isEstablished(node)) established.push(node)
      if (effect.kind === 'convicted' && !convictions.includes(node)) convictions.push(node)
    }
    return step.job
  }
  const lateOf = (node: NodeId): JobState[] => (lone.get(node) ?? []).slice(1 - config.settlementResults)

  /** Whether the liars are after this job; some wait until enough of them hold it. */
  const answer = (job: JobState, execution: ExecutionState, isTarget: boolean): string => {
    const node = byId.get(execution.standing.node)
    if (!isTarget || !node?.lies) return TRUTH
    if (attack.patient && !isEstablished(node)) return TRUTH
    if (!attack.together) return LIE
    const held = job.executions.filter(({ standing }) => byId.get(standing.node)?.lies).length
    return held >= Math.max(2, request.consensus) ? LIE : TRUTH
  }

  const runToEnd = (first: JobState, isTarget: boolean): JobState => {
    let job = first
    while (!jobHasEnded(job.status)) {
      const wanted = job.wanted[0]
      if (wanted !== undefined) {
        const node = choose(job, wanted.established)
        if (node === undefined) return send(job, { type: 'deadline_passed' })
        executions += 1
        const execution = `${job.id}-${job.lastToken + 1}` as ExecutionId
        job = send(job, { type: 'placed', execution, standing: standingOf(node) })
        continue
      }
      const open = job.executions.filter(({ status }) => status === 'leased')
      const execution = random.pick(open)
      const resultHash = answer(job, execution, isTarget)
      const { id, token } = execution
      const hashes = { inputHash: '', resultHash, receipt: RECEIPT, result: RESULT }
      job = send(job, { type: 'committed', execution: id, token, ...hashes })
    }
    return job
  }
  const isLie = (job: JobState): boolean =>
    job.executions.some(({ id, resultHash }) => id === job.canonical && resultHash === LIE)

  /** Who is convicted is out, comes back if that is its way, and what it said alone is asked again. */
  const settleConvictions = (): void => {
    for (let node = convictions.shift(); node !== undefined; node = convictions.shift()) {
      const out = node
      if (!active.includes(out)) continue
      active = active.filter((other) => other !== out)
      established = established.filter((other) => other !== out)
      convicted[out.lies ? 'liarsConvicted' : 'honestConvicted'] += 1
      const { returnsAfterJobs } = attack
      // Where one comes back under a new name, who was convicted without guilt does too, and waits as it is told.
      if (returnsAfterJobs !== undefined)
        waiting.push({ at: jobs + (out.lies ? returnsAfterJobs : HONEST_WAIT_JOBS), lies: out.lies })
      const results = lone.get(out.id) ?? []
      lone.delete(out.id)
      for (const job of results) {
        if (job.status !== 'completed' || job.verification?.decidedBy !== 'alone') continue
        const wasLie = isLie(job)
        verdicts.reopened += 1
        // Those who lied about it then lie about it again.
        const again = runToEnd(send(job, { type: 'reopened', node: out.id }), wasLie)
        if (wasLie && !isLie(again)) verdicts.wrongAtLast -= 1
        if (!wasLie && isLie(again)) verdicts.wrongAtLast += 1
        if (again.status !== 'completed') verdicts.noConsensus += 1
      }
    }
  }

  return {
    runJob() {
      jobs += 1
      for (const { at, lies } of waiting) if (at < jobs) addNode(lies, false)
      waiting = waiting.filter(({ at }) => at >= jobs)
      const id = `job_${jobs}` as JobId
      const submitted = { type: 'submitted', id, tenant: 't', request, auditDraw: random(), relaxed: [] } as const
      const job = runToEnd(send(undefined, submitted), random.chance(attack.lies))
      if (job.status !== 'completed') verdicts.noConsensus += 1
      if (isLie(job)) {
        verdicts.wrongAtFirst += 1
        verdicts.wrongAtLast += 1
      }
      settleConvictions()
    },
    counts: () => ({ executions, ...verdicts, ...convicted }),
  }
}
