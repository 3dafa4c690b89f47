/** A bug that somebody could write: in one file, one piece of text in the place of another. */
export interface Mutation {
  /** Below `src`. */
  readonly file: string
  readonly from: string
  readonly to: string
  /** What is said of it when it is found. */
  readonly caughtBy: RegExp
  /** Of one that is rare: a seed that found it, looked at before the others. */
  readonly seed?: number
}

export const MUTATIONS: Readonly<Record<string, Mutation>> = {
  'a writer that lost its epoch goes on writing': {
    file: 'store/memory-store.ts',
    from: 'if (epoch !== writer.epoch)\n        throw',
    to: 'if (Number.isNaN(epoch))\n        throw',
    caughtBy: /wrote while epoch|in the (log|ledger) already/,
    seed: 337,
  },
  'a lease is renewed by another node': {
    file: 'network/workers.ts',
    from: 'if (lease?.node === node) {\n      extend(w, lease)\n      if (progress',
    to: 'if (lease) {\n      extend(w, lease)\n      if (progress',
    caughtBy: /renewed for .* which has not got it/,
  },
  'a job is acknowledged before it is durable': {
    file: 'network/submit.ts',
    from: 'await w.outbox.durable()\n  return { job, repeated: false }',
    to: 'return { job, repeated: false }',
    caughtBy: /acknowledged before it was durable/,
  },
  'a result is acknowledged before it is durable': {
    file: 'network/workers.ts',
    from: "w.outbox.put(() => w.sessions.send(node, { type: 'ack', items }))",
    to: "w.sessions.send(node, { type: 'ack', items })",
    caughtBy: /acknowledged before it was durable/,
  },
  'a lease is sent before it is durable': {
    file: 'network/dispatch.ts',
    from: 'w.outbox.put(() => send(w, lease))',
    to: 'send(w, lease)',
    caughtBy: /leased before its placement was durable/,
  },
  'a result that comes again is paid again': {
    file: 'network/late.ts',
    from: "if (isKnown && known.validity !== 'late') return { execution, token }",
    to: "if (state && isKnown && known.validity !== 'late') {\n    w.accounts.pay(state.id, execution, known.standing.owner, 1)\n    return { execution, token }\n  }",
    caughtBy: /paid (twice|before)/,
  },
  'a second execution is placed on the same owner': {
    file: 'network/choose-request.ts',
    from: 'distinct: distinctOf(w, job)',
    to: 'distinct: job.executions.length > 1 ? [] : distinctOf(w, job)',
    caughtBy: /on the same (owner|machine|subnet) as/,
  },
  'a result counts whose lease was over': {
    file: 'core/transition.ts',
    from: "  execution.validity = 'late'\n",
    to: "  execution.validity = 'undecided'\n  execution.status = 'completed'\n  execution.result = event.result\n",
    caughtBy: /had expired before|was written|is another one|decided nothing|never written/,
  },
  'a late result takes the place of the one agreed on': {
    file: 'core/transition.ts',
    from: "  execution.validity = 'late'\n",
    to: "  execution.validity = 'late'\n  job.canonical = execution.id\n",
    // A job that is asked again shows the result that it has: so this one is shown too early as well.
    caughtBy:
      /has the result of an execution that is|is another one than the job's|without a result|before the verdict|in the record twice/,
  },
  'the audit is drawn anew for a retry': {
    file: 'core/wanted.ts',
    from: 'isLone(job) &&\n  established &&\n  MAY_BE_ALONE.includes(reason) &&\n  job.auditDraw >=',
    to: "job.request.policy === 'fast' && established && (job.auditDraw + 0.37 * job.executions.length) % 1 >=",
    caughtBy: /was to be audited/,
  },
  'nodes that nobody knows convict another': {
    file: 'core/verdict.ts',
    from: 'oppose(change, execution, winner, winner.established)',
    to: 'oppose(change, execution, winner, true)',
    caughtBy: /on the word of nodes that nobody knows/,
  },
  'a result that nobody confirmed raises trust': {
    file: 'core/verdict.ts',
    from: "else effects.push({ ...entry, kind: 'alone', ms })",
    to: "else effects.push({ ...entry, kind: 'agreed', ms })",
    caughtBy: /agreed in .* with nobody else/,
  },
  'only jobs in memory are asked again of a liar': {
    file: 'network/reopen.ts',
    from: 'if (w.jobs.has(state.id) || ',
    to: 'if (!w.recent.has(state.id) || w.jobs.has(state.id) || ',
    caughtBy: /was not asked again/,
    seed: 116,
  },
  'a heartbeat renews a lease that is over': {
    file: 'network/workers.ts',
    from: "else stop.push({ execution, token, reason: 'lease_lost' })",
    to: 'else renewed.push({ execution, token })',
    caughtBy: /renewed (after|for)/,
  },
  'a jump of the clock ends all leases': {
    file: 'network/steady-clock.ts',
    from: 'if (step < 0 || step > maxStepMs) skippedMs += step',
    to: 'if (Number.isNaN(step)) skippedMs += maxStepMs',
    caughtBy: /ended .* renewed it|long after everything|its lease goes on|shown as/,
  },
  'idempotency keys are those of all tenants': {
    file: 'network/submit.ts',
    from: 'JSON.stringify([tenant, idempotency.key])',
    to: 'JSON.stringify([idempotency.key])',
    caughtBy: /had only one|was given job|no job/,
  },
  'what is let out is let out twice': {
    file: 'network/outbox.ts',
    from: 'for (const work of works) work()',
    to: 'for (const work of [...works, ...works]) work()',
    caughtBy: /was sent after event/,
  },
  'an old session ends the new one': {
    file: 'network/sessions.ts',
    from: 'if (session?.id !== id) return false',
    to: 'if (!session) return false',
    caughtBy: /the lease of .* ended|which is there, and was not sent|shown as/,
    seed: 125,
  },
  'users are shared out anew whenever they ask': {
    file: 'routing/sessions.ts',
    from: 'if (session && !watch.isGone(session.node)) {',
    to: 'if (session && !watch.isGone(session.node) && choose(key) === session.node) {',
    caughtBy: /nothing had happened/,
  },
  'room is not given back when a job is cancelled': {
    file: 'network/job-flow.ts',
    from: 'w.table.release(lease.node, lease.need)',
    to: "if (job.status !== 'cancelled') w.table.release(lease.node, lease.need)",
    caughtBy: /runs nothing, and has|long after everything/,
  },
  'results are told apart by the beginning of their hash': {
    file: 'core/groups.ts',
    from: 'a.resultHash === b.resultHash',
    to: 'a.resultHash?.slice(0, 1) === b.resultHash?.slice(0, 1)',
    caughtBy: /is another one than the job's/,
  },
  'reservations are forgotten when a writer begins': {
    file: 'network/recover.ts',
    from: 'w.table.reserve(standing.node, need)',
    to: 'w.table.get(standing.node)',
    caughtBy: /slots|processors|MiB/,
  },
  'what a job waits for is not in the log': {
    file: 'network/job-flow.ts',
    from: '  else {\n    const record: JobRecord',
    to: "  else if (event.type !== 'waiting') {\n    const record: JobRecord",
    caughtBy: /token|never written|on the same node|slots|were placed/,
    seed: 214,
  },
  'a list shows what is not durable yet': {
    file: 'network/list-jobs.ts',
    from: '  await w.outbox.durable()\n  return { items',
    to: '  return { items',
    caughtBy: /is shown/,
    seed: 469,
  },
  'a refused result is described by its hash': {
    file: 'core/check-result.ts',
    from: "'its result is not the one whose hash its receipt signs'",
    to: "'its result has the hash '.concat(computed)",
    caughtBy: /before the verdict/,
    seed: 345,
  },
  'a checkpoint covers what it did not write': {
    file: 'network/ticks.ts',
    from: 'open.dirty = false\n',
    to: 'open.dirty = false\n          if (open.state.executions.length > 1) continue\n',
    caughtBy: /forgets record/,
  },
  'a hold is never released': {
    file: 'network/job-flow.ts',
    from: "w.accounts.release(job.reopened > 0 ? 'issuer' : ",
    to: "void String(job.reopened > 0 ? 'issuer' : ",
    caughtBy: /still holds/,
  },
}
