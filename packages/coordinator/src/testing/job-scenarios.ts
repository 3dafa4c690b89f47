import {
  type ExecutionId,
  type JobId,
  type JobRequest,
  type JobResult,
  jobHasEnded,
  jobRequestSchema,
  type NodeId,
  type SignedReceipt,
} from '@bramble/protocol'
import type { Transition } from '../core/core.ts'
import type { ExecutionState, JobEventRecord, JobState, Standing } from '../core/job-state.ts'
import { DEFAULT_VERIFICATION, type TransitionContext, type VerificationConfig } from '../core/policy.ts'
import { type Checker, newChecker, type ViewParts } from './job-checker.ts'
import { type Random, seededRandom } from './random.ts'

/**
 * One job from its submission to its end, driven by a seed: nodes are placed, start, commit (some lie, some together), fail,
 * fall silent and come back late; messages come twice or with a token that was never given out; placement errs now and then; the
 * job is cancelled, too late, or asked again. After each event a checker of its own looks at what the transition did.
 */
export interface Scenario {
  readonly job: JobState
  /** What a coordinator would have in its log. */
  readonly log: readonly { readonly event: JobEventRecord; readonly context: TransitionContext }[]
  readonly violations: readonly string[]
}

export interface Parts extends ViewParts {
  readonly transition: Transition
  readonly standingsInUse: (job: JobState) => Standing[]
}

const hex = (digits: number, value: number): string => value.toString(16).padStart(digits, '0')
const TRUTH = 0xaa00
const LIE = 0xaa01

const resultOf = (value: number, status: JobResult['status'] = 'succeeded'): JobResult => {
  const empty = { encoding: 'utf8', content: '', sizeBytes: 0, sha256: hex(64, 0) } as const
  const content = JSON.stringify({ value: value / 7 })
  return {
    status,
    exitCode: status === 'succeeded' ? 0 : null,
    stdout: { encoding: 'utf8', content, sizeBytes: content.length, sha256: `${hex(60, 7)}${hex(4, value)}` },
    stderr: empty,
    truncated: false,
    outputs: {},
  } as unknown as JobResult
}

const requestOf = (random: Random): JobRequest => {
  const redundancy = 1 + random.below(5)
  return jobRequestSchema.parse({
    command: 'true',
    redundancy,
    consensus: 1 + random.below(redundancy),
    strategy: random.pick(['lazy', 'lazy', 'eager']),
    policy: random.pick(['quorum', 'quorum', 'fast', 'fast', 'paranoid']),
    confidence: random.pick([0.9, 0.99, 0.999]),
    comparator: random.chance(0.2) ? { type: 'fuzzy', relative: 0.001 } : { type: 'exact' },
    determinism: random.chance(0.1) ? 'check' : 'profile',
    creditsRequired: random.below(4),
  })
}

const nodesOf = (random: Random): Standing[] =>
  Array.from({ length: 14 }, (_, index) => {
    const established = random.chance(0.4)
    return {
      node: `0x${hex(40, index)}` as NodeId,
      owner: `owner-${random.below(11)}`,
      machine: `machine-${random.below(12)}`,
      subnet: `subnet-${random.below(12)}`,
      established,
      // Anchors are established from the start.
      agreements: established && random.chance(0.8) ? 10 + random.below(200) : random.below(10),
    }
  })

interface Drive {
  readonly random: Random
  readonly parts: Parts
  readonly nodes: readonly Standing[]
  readonly liars: ReadonlySet<NodeId>
  readonly log: { event: JobEventRecord; context: TransitionContext }[]
  readonly checker: Checker
  readonly config: VerificationConfig
  job: JobState
  now: number
  anchorsGone: boolean
  receipts: number
}

const contextOf = (drive: Drive): TransitionContext => {
  const used = new Set(drive.job?.executions.map(({ standing }) => standing.node))
  const anchors = !drive.anchorsGone && drive.nodes.some(({ node, established }) => established && !used.has(node))
  return { now: drive.now, config: drive.config, anchors }
}

const send = (drive: Drive, event: JobEventRecord): void => {
  drive.now += drive.random.below(50)
  const context = contextOf(drive)
  drive.log.push(structuredClone({ event, context }))
  const { job, effects } = drive.parts.transition(drive.job, event, context)
  drive.job = job
  drive.checker.after(event, job, effects, context)
}

const isOpen = ({ status }: ExecutionState): boolean => status === 'leased' || status === 'running'

const place = (drive: Drive): void => {
  const { random, job, nodes, parts } = drive
  const wanted = job.wanted[0]
  if (wanted === undefined) return
  const others = parts.standingsInUse(job)
  const apart = (node: Standing): boolean =>
    others.every(
      (other) =>
        node.node !== other.node &&
        (['owner', 'machine', 'subnet'] as const).every(
          (kind) => node[kind] !== other[kind] || job.relaxed.includes(kind),
        ),
    )
  // A placement that errs: the verdict must not count what is not apart.
  const isWrong = random.chance(0.03)
  const fit = nodes.filter((node) => (!wanted.established || node.established) && (isWrong || apart(node)))
  if (fit.length > 0) {
    const execution = `exe_${hex(26, job.executions.length + 1)}` as ExecutionId
    send(drive, { type: 'placed', execution, standing: random.pick(fit) })
    return
  }
  // All established nodes have gone, or there is nobody left for this job.
  drive.anchorsGone = true
  const waiting = {
    nodes: nodes.length,
    busy: 0,
    stopped: {},
    message: 'none',
    since: new Date(drive.now).toISOString(),
  }
  const hope = wanted.established || (job.auditDraw < drive.config.quorumAuditShare && job.auditWaived === undefined)
  const withoutAnchor = wanted.established && random.chance(0.5) ? { withoutAnchor: true as const } : {}
  if (hope && job.waiting === undefined) send(drive, { type: 'waiting', waiting, ...withoutAnchor })
  else send(drive, { type: 'deadline_passed' })
}

const answerOf = ({ random, liars }: Drive, { standing }: ExecutionState): number => {
  if (liars.has(standing.node)) return random.chance(0.7) ? LIE : 0xbb00 + random.below(3)
  return TRUTH
}

const commit = (drive: Drive, execution: ExecutionState, token = execution.token): void => {
  const value = answerOf(drive, execution)
  const status = drive.random.chance(0.03) ? 'timeout' : 'succeeded'
  drive.receipts += 1
  const receipt = {
    receipt: { cpuMs: 1, peakMemoryBytes: 1 },
    signature: `0x${hex(130, drive.receipts)}`,
  } as unknown as SignedReceipt
  send(drive, {
    type: 'committed',
    execution: execution.id,
    token,
    inputHash: hex(64, drive.random.chance(0.02) ? 2 : 1),
    // Digests that begin alike, as those of liars who try to be taken for another may.
    resultHash: `aaaaaaaaaaaaaaaa${hex(48, value * 8 + (status === 'timeout' ? 1 : 0))}`,
    receipt,
    result: resultOf(value, status),
  })
}

/** Something happens to one execution, or one that was there says something once more. */
const stir = (drive: Drive): void => {
  const { random, job } = drive
  if (job.executions.length === 0) return
  const execution = random.pick(job.executions)
  const { id, token } = execution
  if (!isOpen(execution)) {
    if (random.chance(0.15)) commit(drive, execution)
    if (random.chance(0.1)) send(drive, { type: 'started', execution: id, token })
    return
  }
  const chance = random()
  if (chance < 0.25) send(drive, { type: 'started', execution: id, token })
  else if (chance < 0.75) commit(drive, execution)
  else if (chance < 0.8) commit(drive, execution, token + random.pick([-1, 1, 7]))
  else if (chance < 0.86)
    send(drive, {
      type: 'execution_failed',
      execution: id,
      token,
      code: 'x',
      message: 'y',
      invalid: random.chance(0.5),
    })
  else if (chance < 0.94) send(drive, { type: 'expired', execution: id, token, as: random.pick(['timeout', 'lost']) })
  else send(drive, { type: 'straggling', execution: id })
}

const step = (drive: Drive): void => {
  const { random, job } = drive
  const chance = random()
  if (chance < 0.004) send(drive, { type: 'cancelled', by: 'tenant' })
  else if (chance < 0.008) send(drive, { type: 'deadline_passed' })
  else if (chance < 0.02 && job.executions.length > 0)
    send(drive, { type: 'reopened', node: random.pick(job.executions).standing.node })
  else if (job.wanted.length > 0 && random.chance(0.6)) place(drive)
  else stir(drive)
}

/** Runs until the job has ended; a lone result may be asked again, then it runs once more. */
export const runScenario = (seed: number, parts: Parts): Scenario => {
  const random = seededRandom(seed)
  const nodes = nodesOf(random)
  const liars = new Set(nodes.filter(() => random.chance(0.3)).map(({ node }) => node))
  const relaxed = random.chance(0.2) ? [random.pick(['owner', 'machine', 'subnet'])] : []
  const submitted: JobEventRecord = {
    type: 'submitted',
    id: `job_${hex(26, seed)}` as JobId,
    tenant: 'acme',
    request: requestOf(random),
    auditDraw: random(),
    relaxed,
    ...(random.chance(0.05) && { determinismClass: 'none' as const }),
  }
  const config = { ...DEFAULT_VERIFICATION, quorumAuditShare: random.chance(0.3) ? 0.3 : 0 }
  const context = { now: 1_000_000, config, anchors: true }
  const first = parts.transition(undefined, submitted, context)
  const checker = newChecker(first.job, first.effects, parts)
  const drive: Drive = {
    ...{
      random,
      parts,
      nodes,
      liars,
      checker,
      config,
      job: first.job,
      now: 1_000_000,
      anchorsGone: random.chance(0.15),
    },
    log: [structuredClone({ event: submitted, context })],
    receipts: 0,
  }
  const maxSteps = 2000
  for (let round = 0; round < 2; round++) {
    for (let steps = 0; !jobHasEnded(drive.job.status) && steps < maxSteps; steps++) step(drive)
    if (!jobHasEnded(drive.job.status)) checker.note('it does not end')
    // What still comes when all is over.
    for (let more = 0; more < 6; more++) stir(drive)
    const lone = drive.job.executions.find(({ id }) => id === drive.job.canonical)
    if (lone === undefined || !random.chance(0.5)) break
    send(drive, { type: 'reopened', node: lone.standing.node })
  }
  if (jobHasEnded(drive.job.status)) checker.atEnd(drive.job)
  return { job: drive.job, log: drive.log, violations: checker.violations }
}
