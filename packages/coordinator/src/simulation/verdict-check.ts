import { createHmac } from 'node:crypto'
import type { NodeId, SignedReceipt } from '@bramble/protocol'
import type { ExecutionState, JobState } from '../core/job-state.ts'
import { type JobModel, receiptFault, sharing } from './job-model.ts'
import { AUDIT_KEY, CONFIG } from './world.ts'

export interface VerdictFacts {
  readonly fail: (message: string) => void
  readonly isSigned: (node: NodeId, receipt: SignedReceipt) => boolean
}

const auditDrawOf = (id: string): number =>
  createHmac('sha256', AUDIT_KEY).update(id).digest().readUIntBE(0, 6) / 2 ** 48

/** Sarmenta's credibility, from the paper: of nodes that agree, against those that say otherwise. */
const credibilityOf = (agreed: readonly ExecutionState[], opposed: readonly ExecutionState[][]): number => {
  const liars = CONFIG.verification.assumedLiars
  const one = ({ standing: { agreements } }: ExecutionState): number =>
    agreements === 0 ? 1 - liars : Math.max(1 - liars, 1 - liars / ((1 - liars) * agreements * Math.E))
  const groups = [agreed, ...opposed]
  const chance = (right: number): number =>
    groups
      .flatMap((group, index) => group.map((member) => (index === right ? one(member) : 1 - one(member))))
      .reduce((a, b) => a * b, 1)
  const all = groups.reduce((sum, _, index) => sum + chance(index), chance(-1))
  return chance(0) / all
}

/** A job that says it is completed has the word of enough nodes, by the rules of its policy. */
export const checkVerdict = (model: JobModel, state: JobState, { fail, isSigned }: VerdictFacts): void => {
  const name = `job ${state.id}`
  const { request, verification } = state
  const canonical = state.executions.find(({ id }) => id === state.canonical)
  if (!canonical || !verification) {
    fail(`${name} is completed, and nothing says by what`)
    return
  }
  if (canonical.validity !== 'agreed') fail(`${name} has the result of an execution that is \`${canonical.validity}\``)
  const agreed = state.executions.filter(({ validity, token }) => validity === 'agreed' && token > model.roundToken)
  for (const execution of agreed) {
    const known = model.executions.get(execution.id)
    if (!known) continue
    if (known.ended === 'expired' || known.ended === 'failed')
      fail(`${name} counts ${execution.id}, which had ${known.ended} before its result came`)
    const { receipt, inputHash, resultHash } = execution
    if (!receipt) {
      fail(`${name} counts ${execution.id}, which has no receipt`)
      continue
    }
    const fault = receiptFault({ ...known, token: execution.token }, receipt, CONFIG.network)
    if (fault) fail(`${name} counts ${execution.id}, whose receipt ${fault}`)
    if (!isSigned(known.node, receipt)) fail(`${name} counts ${execution.id}, whose receipt its node did not sign`)
    if (receipt.receipt.inputHash !== `0x${inputHash}` || receipt.receipt.resultHash !== `0x${resultHash}`)
      fail(`${name} counts ${execution.id} with hashes that its receipt has not got`)
    if (inputHash !== canonical.inputHash || resultHash !== canonical.resultHash)
      fail(`${name} counts ${execution.id}, whose result is another one than the job's`)
  }
  for (const [index, one] of agreed.entries())
    for (const other of agreed.slice(index + 1)) {
      const shared = sharing(one.standing, other.standing, state.relaxed)
      if (shared) fail(`${name} counts two executions of one ${shared}: ${one.id}, ${other.id}`)
    }
  if (canonical.result === undefined) fail(`${name} is completed without a result`)
  if (verification.decidedBy === 'alone') {
    const { standing } = canonical
    const share = Math.max(CONFIG.verification.auditShare, 1 / Math.max(1, standing.agreements))
    if (request.policy !== 'fast') fail(`${name} has the policy \`${request.policy}\`, and one decided it alone`)
    if (!standing.established) fail(`${name} was decided alone by ${standing.node}, which is not established`)
    if (auditDrawOf(state.id) < share) fail(`${name} was to be audited, and ${canonical.id} decided it alone`)
    return
  }
  const several = request.policy === 'paranoid' || request.determinism === 'check' || state.reopened > 0
  const needed = Math.max(request.consensus, several ? 2 : 1)
  if (agreed.length < needed) fail(`${name} is verified by ${agreed.length} results, and needs ${needed}`)
  const against = state.executions.filter(({ validity, token }) => validity === 'disagreed' && token > model.roundToken)
  const groups = [...Map.groupBy(against, ({ inputHash, resultHash }) => `${inputHash} ${resultHash}`).values()]
  if (request.policy === 'paranoid') {
    const credibility = credibilityOf(agreed, groups)
    if (credibility < request.confidence - 1e-9)
      fail(`${name} is credible to ${credibility}, not ${request.confidence}`)
  }
  const isAnchored = agreed.some(({ standing }) => standing.established)
  if (needed > 1 && !isAnchored && against.some(({ standing }) => standing.established))
    fail(`${name} was decided by nodes that nobody knows, against an established one`)
}

export const checkDraw = ({ id, auditDraw }: JobState, fail: (message: string) => void): void => {
  if (auditDraw !== auditDrawOf(id)) fail(`the audit of ${id} was drawn again`)
}
