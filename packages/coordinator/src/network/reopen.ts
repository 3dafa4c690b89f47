import { jobHasEnded, type NodeId } from '@bramble/protocol'
import { pump } from './dispatch.ts'
import { apply, reopen } from './job-flow.ts'
import type { WriterContext } from './writer-context.ts'

/** Jobs that a convicted node decided alone, and that are not settled, are asked again of others. */
export const reopenLoneResults = (w: WriterContext, node: NodeId): void => {
  const ask = async (): Promise<void> => {
    // What it decided a moment ago is in the store after this.
    await w.outbox.durable()
    const lone = await w.store.provisional(node, w.now(), w.config.verification.settlementResults)
    for (const state of lone) {
      if (w.jobs.has(state.id) || !jobHasEnded(state.status)) continue
      reopen(w, state, undefined)
      w.accounts.subsidise(state.id, state.request.creditsRequired * state.request.redundancy)
      apply(w, state.id, { type: 'reopened', node })
    }
    pump(w)
  }
  ask().catch(w.fail)
}
