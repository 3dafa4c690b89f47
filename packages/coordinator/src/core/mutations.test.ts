import { describe, expect, it } from 'vitest'
import { runScenario } from '../testing/job-scenarios.ts'
import { loadMutatedCore, type Mutation } from '../testing/mutated-core.ts'

/** Each is a bug that somebody could write; for each, what the checker says when it meets it. */
const MUTATIONS: Record<string, Mutation & { readonly caughtBy: RegExp }> = {
  'no fence: any token will do': {
    file: 'transition.ts',
    from: 'execution !== undefined && execution.token === event.token && isOpen(execution)',
    to: 'execution !== undefined && isOpen(execution)',
    caughtBy: /lease was over/,
  },
  'a token of an ended lease lives again': {
    file: 'transition.ts',
    from: 'execution.token === event.token && isOpen(execution)',
    to: "execution.token === event.token && (isOpen(execution) || execution.status === 'timeout')",
    caughtBy: /back twice|lease was over/,
  },
  'a heartbeat revives an ended execution': {
    file: 'transition.ts',
    from: "const execution = openExecution(job, event)\n  if (execution?.status !== 'leased') return",
    to: 'const execution = job.executions.find(({ id }) => id === event.execution)\n  if (!execution) return',
    caughtBy: /runs again/,
  },
  'double credit: a result sent twice counts twice': {
    file: 'transition.ts',
    from: 'execution.token === event.token && isOpen(execution)',
    to: "execution.token === event.token && (isOpen(execution) || execution.status === 'completed')",
    caughtBy: /back twice/,
  },
  'owner exclusion skipped, and placement errs': {
    file: 'groups.ts',
    from: 'KINDS.every((kind) => a[kind] !== b[kind] || relaxed.includes(kind))',
    to: 'true',
    caughtBy: /voted twice/,
  },
  'the quorum counts an expired execution': {
    file: 'transition.ts',
    from: "  execution.validity = 'late'\n",
    to: "  execution.validity = 'undecided'\n  execution.status = 'completed'\n  execution.result = event.result\n",
    caughtBy: /lease was over/,
  },
  'a late result overwrites the one agreed on': {
    file: 'transition.ts',
    from: "  execution.validity = 'late'\n",
    to: "  execution.validity = 'late'\n  job.canonical = execution.id\n",
    caughtBy: /result of an ended job changed|result without a verdict/,
  },
  'a late result counts each time that it comes': {
    file: 'transition.ts',
    from: " || execution.validity === 'late') return",
    to: ') return',
    caughtBy: /late result counted twice/,
  },
  'the audit is drawn anew for a retry': {
    file: 'wanted.ts',
    from: 'isLone(job) &&\n  established &&\n  MAY_BE_ALONE.includes(reason) &&\n  job.auditDraw >=',
    to: "job.request.policy === 'fast' && job.reopened === 0 && established && ((job.auditDraw + 0.37 * job.executions.length) % 1) >=",
    caughtBy: /audit was left out/,
  },
  'no audit of those who agreed little': {
    file: 'wanted.ts',
    from: 'Math.max(auditShare, 1 / Math.max(1, agreements))',
    to: 'auditShare',
    caughtBy: /audit was left out/,
  },
  'quorums are never audited': {
    file: 'wanted.ts',
    from: 'leastOf(job) + (isAudited(job, config) ? 1 : 0)',
    to: 'leastOf(job)',
    caughtBy: /decided by/,
  },
  'newcomers convict': {
    file: 'verdict.ts',
    from: 'oppose(change, execution, winner, winner.established)',
    to: 'oppose(change, execution, winner, true)',
    caughtBy: /word of newcomers/,
  },
  'nobody is convicted': {
    file: 'verdict.ts',
    from: 'oppose(change, execution, winner, winner.established)',
    to: 'oppose(change, execution, winner, false)',
    caughtBy: /liar went free/,
  },
  'standing alone raises trust': {
    file: 'verdict.ts',
    from: "effects.push({ ...entry, kind: 'alone', ms })",
    to: "effects.push({ ...entry, kind: 'agreed', ms })",
    caughtBy: /raised trust/,
  },
  'what a liar said alone is not asked again': {
    file: 'transition.ts',
    from: "if (job.status === 'completed') {",
    to: "if (job.status === 'completed' && job.tenant === '') {",
    caughtBy: /not asked again/,
  },
  'what is asked again may be decided alone again': {
    file: 'transition.ts',
    from: '    job.reopened += 1\n',
    to: '',
    caughtBy: /.+/,
  },
  'room leaks on cancel': {
    file: 'change.ts',
    from: "  change.effects.push({ type: 'free', execution: execution.id, node: execution.standing.node })\n",
    to: "  if (execution.validity !== 'unneeded')\n    change.effects.push({ type: 'free', execution: execution.id, node: execution.standing.node })\n",
    caughtBy: /with 0 frees/,
  },
  'digests are cut short for grouping': {
    file: 'groups.ts',
    from: 'a.inputHash === b.inputHash && a.resultHash === b.resultHash',
    to: 'a.inputHash === b.inputHash && a.resultHash?.slice(0, 16) === b.resultHash?.slice(0, 16)',
    caughtBy: /results that differ agreed/,
  },
  'what was run does not matter': {
    file: 'groups.ts',
    from: 'a.inputHash === b.inputHash && a.resultHash === b.resultHash',
    to: 'a.resultHash === b.resultHash',
    caughtBy: /different inputs/,
  },
  'one vote less is enough': {
    file: 'verdict.ts',
    from: 'group.members.length >= neededOf(change.job, change.context.config)',
    to: 'group.members.length >= neededOf(change.job, change.context.config) - 1',
    caughtBy: /decided by/,
  },
  'no anchor rule': {
    file: 'verdict.ts',
    from: 'if (neededOf(job, context.config) === 1 || !context.config.anchorRule) return enough[0]',
    to: 'if (enough.length > 0) return enough[0]',
    caughtBy: /newcomers decided/,
  },
  'the word of someone new tips what established nodes say': {
    file: 'verdict.ts',
    from: '|| !other.established || isAhead(change, group, other)',
    to: '|| !other.established || true',
    caughtBy: /outvoted by others/,
  },
  'all who agree are paid': {
    file: 'verdict.ts',
    from: 'members.slice(0, job.request.redundancy)',
    to: 'members',
    caughtBy: /more were paid/,
  },
  'what is held is released at each end of an execution': {
    file: 'verdict.ts',
    from: "  effects.push({ type: 'release' })\n",
    to: "  effects.push({ type: 'release' }, { type: 'release' })\n",
    caughtBy: /released twice/,
  },
  'no bound on executions': {
    file: 'wanted.ts',
    from: 'counted + job.wanted.length >= Math.max(maxExecutions, 2 * job.request.redundancy) ||',
    to: '',
    caughtBy: /more executions than the bound|does not end/,
  },
  'somebody is punished without consensus': {
    file: 'verdict.ts',
    from: '  delete job.canonical\n',
    to: "  delete job.canonical\n  for (const voter of voters) change.effects.push({ type: 'reputation', node: voter.standing.node, kind: 'disagreed', execution: voter.id })\n",
    caughtBy: /disagreed without a verdict/,
  },
  'what is decided goes on running': {
    file: 'verdict.ts',
    from: 'if (isOpen(execution)) unneeded(change, execution)\n    else if',
    to: 'if',
    caughtBy: /still runs/,
  },
  'a job that lost its node is forgotten': {
    file: 'transition.ts',
    from: "    change.effects.push({ type: 'reputation', node, kind: 'timeout', execution: execution.id, message })\n  settle(change, 'retry')\n",
    to: "    change.effects.push({ type: 'reputation', node, kind: 'timeout', execution: execution.id, message })\n",
    caughtBy: /nobody is asked any more/,
  },
  'jobs whose results differ by nature convict': {
    file: 'verdict.ts',
    from: "  if (job.determinismClass === 'none') return\n",
    to: '',
    caughtBy: /differ by nature/,
  },
  'hashes are shown while others still run': {
    file: 'views.ts',
    from: "state.status === 'completed' || state.status === 'no_consensus' || execution === agreedOn(state)",
    to: 'execution.resultHash !== undefined',
    caughtBy: /hash was shown/,
  },
  'late results are shown before the verdict': {
    file: 'views.ts',
    from: "state.status === 'completed' || state.status === 'no_consensus' ||",
    to: "execution.validity === 'late' || state.status === 'completed' || state.status === 'no_consensus' ||",
    caughtBy: /receipt was shown/,
  },
  'contents are kept that nobody agreed on': {
    file: 'verdict.ts',
    from: 'if (execution.id !== job.canonical) delete execution.result',
    to: '',
    caughtBy: /contents are kept/,
  },
}

const MAX_SEEDS = 4000

describe('a core with a fault', () => {
  it.each(Object.entries(MUTATIONS))('is caught: %s', async (_name, { caughtBy, ...mutation }) => {
    using core = await loadMutatedCore(mutation)
    const said = new Set<string>()
    for (let seed = 1; seed <= MAX_SEEDS && ![...said].some((message) => caughtBy.test(message)); seed++) {
      for (const violation of runScenario(seed, core).violations) said.add(violation)
    }
    expect([...said].filter((message) => caughtBy.test(message))).not.toEqual([])
  })
})
