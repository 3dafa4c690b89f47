import { jobHasEnded, type NodeId } from '@bramble/protocol'
import { pump } from './dispatch.ts'
import { addOpen, apply } from './job-flow.ts'
import type { WriterContext } from './writer-context.ts'

/** That a node was convicted and not all followed from it yet: it is there until that is durable, so that no crash comes between. */
export const CONVICTED = 'convicted'

/**
 * What follows from a conviction that is durable: what the node runs is placed elsewhere; what it said in jobs that are not
 * decided counts no more; those that it decided alone, and that are not settled, are asked again of others.
 */
export const takeBack = (w: WriterContext, node: NodeId): void => {
  for (const { job, execution, token } of w.leases.of(node))
    apply(w, job, { type: 'expired', execution, token, as: 'lost' })
  for (const { state } of [...w.jobs.values()])
    if (state.executions.some(({ standing, validity }) => standing.node === node && validity === 'undecided'))
      apply(w, state.id, { type: 'reopened', node })
  const askAgain = async (): Promise<void> => {
    // What it decided a moment ago is in the store after this.
    await w.outbox.durable()
    const lone = await w.store.provisional(node, w.now(), w.config.verification.settlementResults)
    for (const state of lone) {
      if (w.jobs.has(state.id) || !jobHasEnded(state.status)) continue
      addOpen(w, state, undefined)
      w.accounts.subsidise(state.id, state.request.creditsRequired * state.request.redundancy)
      apply(w, state.id, { type: 'reopened', node })
    }
    w.journal.add({ documents: [{ kind: CONVICTED, id: node, value: undefined }] })
    pump(w)
  }
  askAgain().catch(w.fail)
  pump(w)
}
