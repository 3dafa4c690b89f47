import { LIMITS } from '@bramble/protocol'
import { type Change, isOfRound, isOpen } from './change.ts'
import { nodeCredibility } from './credibility.ts'
import type { Counting, Group } from './groups.ts'
import type { ExecutionState, JobState, PlacementReason, Standing, Wanted } from './job-state.ts'
import type { TransitionContext, VerificationConfig } from './policy.ts'

/** How many equal results a verdict takes, where it takes a group. */
export const neededOf = (job: JobState, config: VerificationConfig): number =>
  leastOf(job) + (isAudited(job, config) ? 1 : 0)

const leastOf = ({ request, reopened }: JobState): number => {
  const several = request.policy === 'paranoid' || request.determinism === 'check' || reopened > 0
  return Math.max(request.consensus, several ? 2 : 1)
}

/** Whether its quorum is one larger than it says, which nobody who is in it knows. */
export const isAudited = (job: JobState, { quorumAuditShare }: VerificationConfig): boolean =>
  leastOf(job) > 1 &&
  job.request.policy !== 'paranoid' &&
  job.auditDraw < quorumAuditShare &&
  job.auditWaived === undefined

/** Reasons of executions that were not asked for to contradict or confirm another one. */
const MAY_BE_ALONE: readonly PlacementReason[] = ['first', 'retry', 'straggler']

/** Nothing but executions that may decide alone has been asked of anyone so far. */
const isLone = (job: JobState): boolean =>
  job.request.policy === 'fast' &&
  job.reopened === 0 &&
  job.request.determinism !== 'check' &&
  job.executions.every(({ alone }) => alone)

/**
 * Whether an execution on that node may decide the job alone. The draw belongs to the job and was made before anything was
 * placed, so that failing on purpose draws no other one.
 */
export const mayDecideAlone = (
  job: JobState,
  { established, agreements }: Standing,
  reason: PlacementReason,
  { auditShare }: VerificationConfig,
): boolean =>
  isLone(job) &&
  established &&
  MAY_BE_ALONE.includes(reason) &&
  job.auditDraw >= Math.max(auditShare, 1 / Math.max(1, agreements))

const FAILURES: readonly ExecutionState['status'][] = ['failed', 'timeout']

/** Whether no further execution of this round may be asked for. What was lost with its node is no fault of the job's. */
export const isExhausted = (job: JobState, { maxExecutions, maxErrors }: VerificationConfig): boolean => {
  const round = job.executions.filter((execution) => isOfRound(job, execution))
  const errors = round.filter(({ status }) => FAILURES.includes(status)).length
  const counted = round.filter(({ status }) => status !== 'lost').length
  return (
    errors > Math.max(maxErrors, job.request.redundancy) ||
    counted + job.wanted.length >= Math.max(maxExecutions, 2 * job.request.redundancy) ||
    job.executions.length + job.wanted.length >= LIMITS.maxJobExecutions.value
  )
}

/** Members that a group of these credibilities still lacks, if each new one is a node that nobody knows. */
const missingCredibility = ({ job, context }: Change, group: Group | undefined): number => {
  const liars = context.config.assumedLiars
  const odds = (group?.members ?? []).map(({ standing }) => nodeCredibility(standing.agreements, liars))
  let right = odds.reduce((product, credibility) => product * credibility, 1)
  let wrong = odds.reduce((product, credibility) => product * (1 - credibility), 1)
  let missing = 0
  while (right / (right + wrong) < job.request.confidence && missing < LIMITS.maxRedundancy.value) {
    right *= 1 - liars
    wrong *= liars
    missing += 1
  }
  return missing
}

/** How many executions must be added to those that run or are asked for, before the job can be decided at all. */
const shortOf = (change: Change, { voters, open }: Counting, leader: Group | undefined): number => {
  const { job, context } = change
  const coming = open.length + job.wanted.length
  if (isLone(job)) return 1 - coming
  const { redundancy, strategy, policy } = job.request
  // Nobody decided, nobody is at it: whatever the reason, one more has a say.
  const one = coming === 0 ? 1 : 0
  // One after another: who does not know whether an accomplice is asked next does not dare to lie.
  if (policy === 'paranoid' && strategy === 'lazy') return one
  const short = Math.max(neededOf(job, context.config) - (leader?.members.length ?? 0) - coming, one)
  if (strategy === 'lazy') return short
  const more = policy === 'paranoid' ? missingCredibility(change, leader) : redundancy - voters.length
  return Math.max(short, more - coming)
}

const addWanted = (change: Change, reason: PlacementReason, established: boolean): void => {
  if (!isExhausted(change.job, change.context.config)) change.job.wanted.push({ reason, established })
}

/** Whether verdicts must have an established node's word: one alone that nobody checks needs none. */
export const wantsAnchor = (job: JobState, { anchors, config }: TransitionContext): boolean =>
  config.anchorRule && anchors && !job.anchorWaived && neededOf(job, config) > 1

/** Asks for as many more executions as the job lacks. */
export const ask = (
  change: Change,
  counting: Counting,
  leader: Group | undefined,
  enough: boolean,
  reason: PlacementReason,
): void => {
  const { job, context } = change
  if (!context.anchors || job.anchorWaived) job.wanted = withoutAnchors(job.wanted)
  if (enough && wantsAnchor(job, context)) {
    const isComing =
      counting.open.some(({ standing }) => standing.established) || job.wanted.some(({ established }) => established)
    if (!isComing) addWanted(change, 'anchor', true)
    return
  }
  for (let short = shortOf(change, counting, leader); short > 0; short--) addWanted(change, reason, false)
  reserveAnchor(change, counting, leader)
}

const withoutAnchors = (asked: readonly Wanted[]): Wanted[] =>
  asked
    .filter(({ reason }) => reason !== 'anchor')
    .map((wanted) => (wanted.established ? { ...wanted, established: false } : wanted))

/** The last of a quorum is asked of an established node if none of the others is, for it could not decide without. */
const reserveAnchor = ({ job, context }: Change, { voters, open }: Counting, leader: Group | undefined): void => {
  const [last] = job.wanted
  if (last === undefined || last.established || job.wanted.length > 1 || isLone(job) || !wantsAnchor(job, context))
    return
  const others = [...(leader?.members ?? voters), ...open]
  if (others.length > 0 && !others.some(({ standing }) => standing.established))
    job.wanted = [{ ...last, established: true }]
}

/** A second copy of one that is slow, once; of one that may decide alone, where another may too. */
export const askStraggler = (change: Change, slow: ExecutionState): void => {
  const { job, context } = change
  const stragglers = job.executions.filter(({ reason }) => reason === 'straggler').length
  const isAsked = job.wanted.some(({ reason }) => reason === 'straggler')
  const running = job.executions.filter(isOpen).length
  const needed = neededOf(job, context.config)
  if (isAsked || stragglers >= needed || running > needed) return
  addWanted(change, 'straggler', context.anchors && !job.anchorWaived && (slow.alone || slow.standing.established))
}
