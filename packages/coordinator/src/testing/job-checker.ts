import { jobHasEnded, LIMITS } from '@bramble/protocol'
import type { Effect, ExecutionState, JobEventRecord, JobState, Standing } from '../core/job-state.ts'
import type { TransitionContext } from '../core/policy.ts'
import type * as Views from '../core/views.ts'

/**
 * What must hold of a job whatever happens, written down a second time: nothing here asks the transition's own parts what
 * agrees, who counts or who is to be believed.
 */
export interface Checker {
  readonly violations: string[]
  note(message: string): void
  after(event: JobEventRecord, job: JobState, effects: readonly Effect[], context: TransitionContext): void
  atEnd(job: JobState): void
}

interface Seen {
  status: JobState['status']
  readonly frees: Map<string, number>
  readonly pays: Map<string, number>
  readonly late: Map<string, number>
  readonly tokens: Set<number>
  /** Committed while their lease was theirs. */
  readonly inTime: Set<string>
  readonly openBefore: Map<string, number>
  releases: number
  rounds: number
  paidInRound: number
  lastSeq: number
  spent: number
  wasAlone: boolean
  canonical: string | undefined
}

const ORDER = ['pending', 'scheduled', 'running', 'verifying'] as const
const isOpen = ({ status }: ExecutionState): boolean => status === 'leased' || status === 'running'
const count = (map: Map<string, number>, key: string): number => {
  const times = (map.get(key) ?? 0) + 1
  map.set(key, times)
  return times
}

export type ViewParts = Pick<typeof Views, 'jobView' | 'executionView' | 'evidenceView'>

export const newChecker = (first: JobState, effects: readonly Effect[], views: ViewParts): Checker => {
  const violations: string[] = []
  const note = (message: string): void => {
    if (!violations.includes(message)) violations.push(message)
  }
  const seen: Seen = {
    status: first.status,
    ...{ frees: new Map(), pays: new Map(), late: new Map(), openBefore: new Map() },
    ...{ tokens: new Set(), inTime: new Set() },
    ...{ releases: 0, rounds: 1, paidInRound: 0, lastSeq: first.lastSeq, spent: 0, wasAlone: false },
    canonical: undefined,
  }
  if (!effects.some(({ type }) => type === 'place')) note('a new job asks for no node')
  const after: Checker['after'] = (event, job, after, context) => {
    noteArrival(seen, event)
    if (event.type === 'reopened' && seen.wasAlone && job.status !== 'completed') {
      seen.rounds += 1
      seen.paidInRound = 0
    }
    checkStatus(seen, event, job, note)
    checkEffects(seen, job, after, note)
    checkExecutions(seen, job, note)
    const decided = job.status === 'completed' && seen.status !== 'completed'
    if (decided) checkVerdict(seen, job, after, context, note)
    else checkNoVerdict(seen, event, job, after, note)
    checkViews(job, views, note)
    seen.status = job.status
    seen.wasAlone = job.status === 'completed' && job.verification?.decidedBy === 'alone'
    seen.canonical = job.canonical
    seen.openBefore.clear()
    for (const execution of job.executions) if (isOpen(execution)) seen.openBefore.set(execution.id, execution.token)
  }
  return { violations, note, after, atEnd: (job) => checkEnd(seen, job, note) }
}

type Note = (message: string) => void

const noteArrival = (seen: Seen, event: JobEventRecord): void => {
  if (event.type === 'committed' && seen.openBefore.get(event.execution) === event.token)
    seen.inTime.add(event.execution)
}

const checkStatus = (seen: Seen, event: JobEventRecord, job: JobState, note: Note): void => {
  const [from, to] = [ORDER.indexOf(seen.status as never), ORDER.indexOf(job.status as never)]
  if (from >= 0 && to >= 0 && to < from) note(`status went back from ${seen.status} to ${job.status}`)
  if (jobHasEnded(seen.status) && job.status !== seen.status && !(event.type === 'reopened' && seen.wasAlone))
    note(`an ended job went from ${seen.status} to ${job.status} by ${event.type}`)
  if (jobHasEnded(seen.status) && jobHasEnded(job.status) && job.canonical !== seen.canonical)
    note('the result of an ended job changed')
  if (event.type === 'reopened' && seen.wasAlone) {
    const lone = job.executions.find(({ id }) => id === seen.canonical)
    if (lone?.standing.node === event.node && job.status !== 'verifying')
      note('a lone result of a liar is not asked again')
  }
  if (!jobHasEnded(job.status) && job.wanted.length === 0 && !job.executions.some(isOpen))
    note('nobody is asked any more')
  if (jobHasEnded(job.status) && job.wanted.length > 0) note('an ended job asks for nodes')
}

const checkEffects = (seen: Seen, job: JobState, effects: readonly Effect[], note: Note): void => {
  for (const effect of effects) {
    if ('seq' in effect) {
      if (effect.seq !== seen.lastSeq + 1) note('the history is not numbered one by one')
      seen.lastSeq = effect.seq
    }
    switch (effect.type) {
      case 'free':
        if (count(seen.frees, effect.execution) > 1) note('an execution gave its room back twice')
        break
      case 'pay':
        if (count(seen.pays, effect.execution) > 1) note('an execution was paid twice')
        seen.paidInRound += 1
        seen.spent += effect.credits
        if (seen.paidInRound > job.request.redundancy) note('more were paid than `redundancy`')
        break
      case 'release':
        seen.releases += 1
        if (seen.releases > seen.rounds) note('what was held was released twice')
        break
      case 'reputation':
        if (effect.kind === 'late' && count(seen.late, effect.execution) > 1) note('a late result counted twice')
        if (effect.kind !== 'late' && jobHasEnded(seen.status)) note(`after the end: ${effect.kind}`)
        break
      case 'stop':
        if (seen.openBefore.get(effect.execution) !== effect.token) note('something was stopped that did not run')
        break
      default:
    }
    if (jobHasEnded(seen.status) && jobHasEnded(job.status) && effect.type !== 'reputation')
      note(`after the end: ${effect.type}`)
  }
  if (job.lastSeq !== seen.lastSeq) note('lastSeq is not that of the last event')
}

const maxCopies = ({ request, reopened }: JobState): number =>
  Math.min(LIMITS.maxJobExecutions.value, Math.max(8, 2 * request.redundancy) * (1 + reopened))

const checkExecutions = (seen: Seen, job: JobState, note: Note): void => {
  let last = 0
  for (const execution of job.executions) {
    if (execution.token <= last) note('tokens do not grow')
    last = execution.token
    const frees = seen.frees.get(execution.id) ?? 0
    if (frees !== (isOpen(execution) ? 0 : 1)) note(`an execution is ${execution.status} with ${frees} frees`)
    if (isOpen(execution) && jobHasEnded(job.status)) note('an execution of an ended job still runs')
    // An execution whose lease ended never lives again.
    const wasOpen = seen.openBefore.has(execution.id) || !seen.tokens.has(execution.token)
    if (isOpen(execution) && !wasOpen) note('an execution that had ended runs again')
    if (execution.validity === 'agreed' && !seen.inTime.has(execution.id)) note('a result counted whose lease was over')
    seen.tokens.add(execution.token)
  }
  const counted = job.executions.filter(({ status }) => status !== 'lost').length
  if (counted > maxCopies(job)) note('more executions than the bound')
  if (job.creditsSpent !== seen.spent) note('creditsSpent is not what was paid')
}

const areApart = (a: Standing, b: Standing, relaxed: readonly string[]): boolean =>
  a.node !== b.node &&
  (a.owner !== b.owner || relaxed.includes('owner')) &&
  (a.machine !== b.machine || relaxed.includes('machine')) &&
  (a.subnet !== b.subnet || relaxed.includes('subnet'))

const checkVerdict = (
  seen: Seen,
  job: JobState,
  effects: readonly Effect[],
  context: TransitionContext,
  note: Note,
): void => {
  const { request, verification } = job
  const round = job.executions.filter(({ token }) => token > job.roundToken)
  const agreed = round.filter(({ validity }) => validity === 'agreed')
  const [first] = agreed
  const alone = verification?.decidedBy === 'alone'
  const strict = request.policy === 'paranoid' || request.determinism === 'check' || job.reopened > 0
  const least = Math.max(request.consensus, strict ? 2 : 1)
  const { quorumAuditShare } = context.config
  const isAudited = least > 1 && request.policy !== 'paranoid' && job.auditDraw < quorumAuditShare && !job.auditWaived
  const needed = alone ? 1 : isAudited ? least + 1 : least
  if (first === undefined || agreed.length < needed) note(`decided by ${agreed.length} of ${needed}`)
  if (verification?.agreed !== agreed.length) note('the verification says another number')
  if (alone && first) {
    const { agreements, established } = first.standing
    const share = Math.max(context.config.auditShare, 1 / Math.max(1, agreements))
    if (!established || request.policy !== 'fast' || job.reopened > 0) note('who may not stand alone did')
    if (job.auditDraw < share) note('an audit was left out')
  }
  for (const [index, one] of agreed.entries()) {
    if (one.receipt === undefined) note('a vote without a receipt')
    for (const other of agreed.slice(index + 1))
      if (!areApart(one.standing, other.standing, job.relaxed)) note('one owner, machine or subnet voted twice')
    if (first && one.inputHash !== first.inputHash) note('results of different inputs agreed')
    if (first && request.comparator.type === 'exact' && one.resultHash !== first.resultHash)
      note('results that differ agreed')
  }
  const established = agreed.some(({ standing }) => standing.established)
  if (!alone && needed > 1 && context.anchors && !job.anchorWaived && !established)
    note('newcomers decided among themselves')
  const others = new Map<string, number>()
  for (const { validity, standing, inputHash, resultHash } of round)
    if (validity === 'disagreed' && standing.established) count(others, `${inputHash} ${resultHash}`)
  const lead = agreed.filter(({ standing }) => standing.established).length - Math.max(0, ...others.values())
  if (
    request.comparator.type === 'exact' &&
    !alone &&
    needed > 1 &&
    others.size > 0 &&
    lead < (context.anchors ? 2 : 1)
  )
    note('established nodes were outvoted by others')
  const convicted = effects.filter((effect) => effect.type === 'reputation' && effect.kind === 'convicted')
  if (convicted.length > 0 && !established) note('somebody was convicted on the word of newcomers')
  const owners = new Set(agreed.map(({ standing }) => standing.owner))
  for (const effect of effects) {
    if (effect.type !== 'reputation') continue
    if (effect.kind === 'agreed' && owners.size < 2) note('standing alone raised trust')
    const execution = job.executions.find(({ id }) => id === effect.execution)
    if (effect.kind === 'disagreed' && execution?.validity !== 'disagreed') note('who did not disagree is punished')
    if ((effect.kind === 'disagreed' || effect.kind === 'convicted') && job.determinismClass === 'none')
      note('somebody was punished for a job whose results differ by nature')
  }
  const liars = round.filter((each) => each.validity === 'disagreed')
  if (established && job.determinismClass !== 'none' && convicted.length < liars.length) note('a liar went free')
  if (agreed.length > 0 && job.request.creditsRequired > 0) {
    if (seen.paidInRound !== Math.min(agreed.length, request.redundancy)) note('not all who agreed were paid')
  }
  if (!effects.some(({ type }) => type === 'release')) note('what was held was kept')
  if (alone !== effects.some(({ type }) => type === 'provisional')) note('a lone result is not provisional')
  for (const [execution, token] of seen.openBefore) {
    const ended = job.executions.find(({ id }) => id === execution)
    const stopped = effects.some((effect) => effect.type === 'stop' && effect.token === token)
    if (ended?.validity === 'unneeded' && !stopped) note('what is not needed was not stopped')
  }
}

const checkNoVerdict = (
  seen: Seen,
  event: JobEventRecord,
  job: JobState,
  effects: readonly Effect[],
  note: Note,
): void => {
  for (const effect of effects) {
    if (effect.type === 'pay') note('paid without a verdict')
    if (effect.type === 'provisional') note('provisional without a verdict')
    if (effect.type === 'reputation' && ['agreed', 'alone', 'disagreed', 'convicted'].includes(effect.kind))
      note(`${effect.kind} without a verdict`)
  }
  if (event.type === 'committed' && job.verification === undefined && job.canonical !== undefined)
    note('a result without a verdict')
  const ended = jobHasEnded(job.status) && !jobHasEnded(seen.status)
  if (ended && !effects.some(({ type }) => type === 'release')) note('what was held was kept')
}

/** What nobody may see yet: hashes, receipts and contents of executions without a verdict. */
const checkViews = (job: JobState, { jobView, executionView, evidenceView }: ViewParts, note: Note): void => {
  if (job.status === 'completed' || job.status === 'no_consensus') return
  const shown = JSON.stringify([
    jobView(job),
    job.executions.map((execution) => executionView(job, execution)),
    evidenceView(job, { network: '', publicKey: (node) => node }),
  ])
  const visible = job.executions.find(({ id }) => id === job.canonical && job.status === 'verifying')
  for (const execution of job.executions) {
    if (execution === visible) continue
    const { resultHash, receipt, result } = execution
    if (receipt && shown.includes(receipt.signature)) note('a receipt was shown before the verdict')
    if (resultHash && resultHash !== visible?.resultHash && shown.includes(resultHash))
      note('a hash was shown before the verdict')
    const content = result && 'content' in result.stdout ? JSON.stringify(result.stdout.content) : undefined
    const other = visible?.result && 'content' in visible.result.stdout ? visible.result.stdout.content : undefined
    if (content && content !== JSON.stringify(other) && shown.includes(content))
      note('output was shown before the verdict')
  }
}

const checkEnd = (seen: Seen, job: JobState, note: Note): void => {
  for (const { id, result } of job.executions) {
    if (seen.frees.get(id) !== 1) note('room was not given back')
    if (result !== undefined && id !== job.canonical) note('contents are kept that nobody agreed on')
  }
  if (seen.releases !== seen.rounds) note(`released ${seen.releases} times in ${seen.rounds} rounds`)
}
