import { jobHasEnded, type Verification } from '@bramble/protocol'
import { type Change, durationMs, isOfRound, isOpen, nextSeq, setStatus, stopExecution, tell } from './change.ts'
import { groupCredibility, nodeCredibility } from './credibility.ts'
import { determinismClassOf } from './determinism.ts'
import { type Counting, countingOf, type Group, groupsOf, isSame } from './groups.ts'
import type { ExecutionState, JobState, PlacementReason } from './job-state.ts'
import { ask, isExhausted, neededOf, wantsAnchor } from './wanted.ts'

/** Decides the job if it can be decided now; else asks for what it lacks, by `reason`; else ends it. */
export const settle = (change: Change, reason: PlacementReason): void => {
  const { job, context } = change
  if (jobHasEnded(job.status)) return
  const counting = countingOf(job)
  const groups = groupsOf(counting.voters, job.request.comparator)
  const winner = loneOf(job, counting) ?? winnerOf(change, groups)
  if (winner !== undefined) {
    conclude(change, counting, winner, groups)
    return
  }
  if (job.startedAt !== undefined && counting.voters.length > 0) setStatus(change, 'verifying')
  askFor(change, counting, groups, reason)
  const isOver = counting.open.length === 0 && job.wanted.length === 0 && isExhausted(job, context.config)
  if (isOver) giveUp(change, counting)
}

/** The same without deciding anything: one that has just been placed is never unneeded at once. */
export const askMore = (change: Change, reason: PlacementReason): void => {
  const counting = countingOf(change.job)
  askFor(change, counting, groupsOf(counting.voters, change.job.request.comparator), reason)
}

const askFor = (change: Change, counting: Counting, groups: readonly Group[], reason: PlacementReason): void => {
  const { job, effects } = change
  const before = [...job.wanted]
  const enough = groups.some((group) => isEnough(change, group, groups))
  ask(change, counting, groups[0], enough, reason)
  if (job.wanted.some((wanted, index) => wanted !== before[index])) effects.push({ type: 'place' })
}

/** Whether the command came to an end by itself. That it ran out of time or memory is also said of the node. */
const isFirm = ({ result }: ExecutionState): boolean => result?.status === 'succeeded' || result?.status === 'failed'

/** The result that decides alone: of a node that may, with nobody contradicting it. */
const loneOf = (job: JobState, { voters }: Counting): Group | undefined => {
  const [first] = voters
  if (first === undefined || voters.length > 1 || !first.alone || job.reopened > 0 || !isFirm(first)) return undefined
  return { canonical: first, members: voters, established: true }
}

const credibilityOf = ({ context }: Change, group: Group, groups: readonly Group[]): number =>
  groupCredibility(
    [group, ...groups.filter((other) => other !== group)].map(({ members }) =>
      members.map(({ standing }) => nodeCredibility(standing.agreements, context.config.assumedLiars)),
    ),
  )

const isEnough = (change: Change, group: Group, groups: readonly Group[]): boolean =>
  group.members.length >= neededOf(change.job, change.context.config) &&
  (change.job.request.policy !== 'paranoid' || credibilityOf(change, group, groups) >= change.job.request.confidence)

const establishedOf = ({ members }: Group): number => members.filter(({ standing }) => standing.established).length

/** By the lead that is asked for; by one where no other established node is left to ask. */
const isAhead = ({ context }: Change, group: Group, other: Group): boolean =>
  establishedOf(group) >= establishedOf(other) + (context.anchors ? context.config.establishedLead : 1)

/**
 * The anchor rule: those who are new may not outvote each other into a verdict while an established node could be asked, and
 * where established nodes differ, it is among them that the group must lead: the word of someone new tips nothing.
 */
const winnerOf = (change: Change, groups: readonly Group[]): Group | undefined => {
  const { job, context } = change
  const enough = groups.filter((group) => isEnough(change, group, groups))
  if (neededOf(job, context.config) === 1 || !context.config.anchorRule) return enough[0]
  const leads = (group: Group): boolean =>
    groups.every((other) => other === group || !other.established || isAhead(change, group, other))
  const anchored = enough.find((group) => group.established && leads(group))
  if (anchored !== undefined || wantsAnchor(job, context)) return anchored
  return groups.some(({ established }) => established) ? undefined : enough[0]
}

/** How the verdict came about. */
const verificationOf = (change: Change, winner: Group, groups: readonly Group[], corrected: boolean): Verification => {
  const { job, context } = change
  const { policy } = job.request
  const alone = winner.members.length === 1 && winner.canonical.alone && job.reopened === 0
  const audited = job.executions.some((execution) => execution.reason === 'audit' && isOfRound(job, execution))
  return {
    policy,
    decidedBy: alone ? 'alone' : policy === 'paranoid' ? 'credibility' : audited ? 'audit' : 'quorum',
    agreed: winner.members.length,
    needed: alone ? 1 : neededOf(job, context.config),
    executions: job.executions.length,
    ...(policy === 'paranoid' && { credibility: credibilityOf(change, winner, groups) }),
    ...(alone && { provisionalUntil: new Date(context.now + context.config.settlementMs).toISOString() }),
    corrected,
  }
}

/** Agreeing with oneself on another of one's nodes is no agreement. */
const agreesWithOthers = (member: ExecutionState, { members }: Group): boolean =>
  members.some(
    ({ standing }) => standing.owner !== member.standing.owner && standing.machine !== member.standing.machine,
  )

const conclude = (change: Change, { voters }: Counting, winner: Group, groups: readonly Group[]): void => {
  const { job, context, effects } = change
  const old = job.executions.find(({ id }) => id === job.canonical)
  const corrected = old !== undefined && !isSame(old, winner.canonical, job.request.comparator)
  job.verification = verificationOf(change, winner, groups, corrected)
  if (job.request.determinism === 'check') job.determinismClass = determinismClassOf(voters, winner)
  const opposed = voters.filter((execution) => !winner.members.includes(execution))
  if (old !== undefined && corrected) oppose(change, old, winner, false)
  for (const execution of opposed) oppose(change, execution, winner, winner.established)
  const averageMs = winner.members.reduce((sum, member) => sum + durationMs(member), 0) / winner.members.length
  for (const execution of winner.members) {
    execution.validity = 'agreed'
    const entry = { type: 'reputation', node: execution.standing.node, execution: execution.id } as const
    const ms = durationMs(execution)
    const isVouched = winner.established || !job.anchorWaived
    if (isVouched && agreesWithOthers(execution, winner)) effects.push({ ...entry, kind: 'agreed', ms, averageMs })
    else effects.push({ ...entry, kind: 'alone', ms })
  }
  pay(change, winner.members)
  if (old === undefined || corrected) job.canonical = winner.canonical.id
  if (job.verification.decidedBy === 'alone')
    effects.push({
      type: 'provisional',
      node: winner.canonical.standing.node,
      until: context.now + context.config.settlementMs,
    })
  if (corrected) effects.push({ type: 'corrected', seq: nextSeq(job), resultHash: winner.canonical.resultHash ?? '' })
  finish(change, 'completed')
}

/**
 * Its result is another one than the verdict. Who is new is believed against nobody: only the word of an established node
 * convicts. Of a job whose results differ by nature, none is held against anyone; nor is it a lie to be too slow for a
 * job's limits, or fast enough where others were not.
 */
const oppose = (change: Change, execution: ExecutionState, winner: Group, convict: boolean): void => {
  const { job, effects } = change
  const entry = { type: 'reputation', node: execution.standing.node, execution: execution.id } as const
  if (!isFirm(execution) || !isFirm(winner.canonical)) {
    execution.validity = 'inconclusive'
    const message = `it ended \`${execution.result?.status}\`, while others agreed on another result`
    if (!isFirm(execution)) effects.push({ ...entry, kind: 'timeout', ms: durationMs(execution), message })
    return
  }
  execution.validity = 'disagreed'
  execution.status = 'disagreed'
  tell(change, execution)
  if (job.determinismClass === 'none') return
  const message = `its result of ${job.id} is not the one that was agreed on`
  effects.push({ ...entry, kind: 'disagreed', ms: durationMs(execution), message })
  if (convict) effects.push({ ...entry, kind: 'convicted', message })
}

const pay = ({ job, effects }: Change, members: readonly ExecutionState[]): void => {
  const credits = job.request.creditsRequired
  if (credits === 0) return
  for (const { id, standing } of members.slice(0, job.request.redundancy)) {
    job.creditsSpent += credits
    effects.push({ type: 'pay', execution: id, owner: standing.owner, credits })
  }
}

const unneeded = (change: Change, execution: ExecutionState): void =>
  stopExecution(change, execution, { status: 'cancelled', validity: 'unneeded', message: 'the job is decided' })

const giveUp = (change: Change, { voters }: Counting): void => {
  const { job, context } = change
  const round = job.executions.filter((execution) => isOfRound(job, execution))
  const last = round.findLast(({ message }) => message !== undefined)?.message
  if (job.request.determinism === 'check' && voters.length > 1) job.determinismClass = determinismClassOf(voters)
  delete job.canonical
  const why = last === undefined ? '' : `; the last: ${last}`
  if (voters.length === 0) {
    end(change, 'failed', `${round.length} executions gave no result${why}`)
    return
  }
  const hint =
    job.determinismClass === 'fuzzy' ? '; they differ by numbers that the comparator `fuzzy` would take as equal' : ''
  end(
    change,
    'no_consensus',
    `${voters.length} results, and no ${neededOf(job, context.config)} that count and agree${hint}`,
  )
}

/** The job ends without a verdict: nobody is punished and nobody paid. */
export const end = (change: Change, status: 'failed' | 'cancelled' | 'no_consensus', message: string): void => {
  const { job } = change
  job.message = message
  for (const execution of job.executions) {
    if (isOpen(execution)) stopExecution(change, execution, { status: 'cancelled', validity: 'unneeded', message })
    else if (execution.validity === 'undecided') execution.validity = 'inconclusive'
  }
  finish(change, status)
}

const finish = (change: Change, status: 'completed' | 'failed' | 'cancelled' | 'no_consensus'): void => {
  const { job, context, effects } = change
  for (const execution of job.executions) {
    if (isOpen(execution)) unneeded(change, execution)
    else if (execution.validity === 'undecided') execution.validity = 'inconclusive'
    // Contents are kept of what was agreed on; of the others, their hashes and receipts are the evidence.
    if (execution.id !== job.canonical) delete execution.result
  }
  delete job.waiting
  job.finishedAt = context.now
  setStatus(change, status)
  effects.push({ type: 'release' })
  if (job.wanted.length > 0) {
    job.wanted = []
    effects.push({ type: 'place' })
  }
}
