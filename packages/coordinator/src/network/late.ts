import { BrambleError, type Commit, type NodeId } from '@bramble/protocol'
import { apply } from './job-flow.ts'
import type { Acknowledgement } from './network.ts'
import { addReputation } from './node-records.ts'
import type { WriterContext } from './writer-context.ts'

/**
 * A result whose lease is over, or that came once before. Of a job that is open it becomes part of its history; of one that
 * has ended it is an entry of the node's record. It never counts.
 */
export const lateCommit = (w: WriterContext, node: NodeId, commit: Commit): Acknowledgement => {
  const { execution, token, receipt, result } = commit
  const { job: id, inputHash, resultHash } = receipt.receipt
  const state = [w.jobs.get(id as never)?.state, w.recent.get(id as never)].find((each) => each !== undefined)
  const known = state?.executions.find((each) => each.id === execution && each.token === token)
  const isKnown = known?.standing.node === node && known.receipt?.receipt.resultHash === resultHash
  // Sent again because the acknowledgement was lost: it is taken already.
  if (isKnown && known.validity !== 'late') return { execution, token }
  const record = w.nodes.get(node)
  if (state && known?.standing.node === node && w.jobs.has(state.id))
    apply(w, state.id, {
      type: 'committed',
      ...{ execution, token, receipt, result },
      ...{ inputHash: inputHash.slice(2), resultHash: resultHash.slice(2) },
    })
  // One that was stopped because the verdict was there is nobody's fault.
  else if (
    record &&
    known?.standing.node === node &&
    known.validity !== 'unneeded' &&
    known.validity !== 'late' &&
    !w.lateTold.has(known)
  ) {
    w.lateTold.add(known)
    addReputation(w, record, { kind: 'late', job: state?.id ?? id, execution })
  }
  const error = new BrambleError('lease_lost', { detail: 'the execution is not this node’s any more' })
  return { execution, token, error: error.toProblem() }
}
