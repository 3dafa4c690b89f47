import { verifyReceipts } from '@bramble/identity'
import { BrambleError, type Commit, type Failure, type LeaseRef, type Problem } from '@bramble/protocol'
import type { Acknowledgement } from '../network/network.ts'
import type { FrontContext } from './front-context.ts'
import type { Signer } from './node-requests.ts'

/** A result that cannot be taken: what is recorded of it, and what its node is told. */
export interface BadCommit {
  readonly failure: Failure
  readonly error: Problem
}

/**
 * Which of these results are what they say: signed by the node that sends them (one signature over many is checked once), with all
 * their blobs here.
 */
export const checkCommits = async (
  { curve, tenantBlobs, metrics }: Pick<FrontContext, 'curve' | 'tenantBlobs' | 'metrics'>,
  commits: readonly Commit[],
  { node, publicKey }: Signer,
): Promise<{ good: Commit[]; bad: BadCommit[] }> => {
  const good: Commit[] = []
  const bad: BadCommit[] = []
  const verified = verifyReceipts(
    commits.map(({ receipt }) => ({ signed: receipt, publicKey })),
    curve,
  )
  for (const [at, commit] of commits.entries()) {
    const refuse = (code: 'signature_invalid' | 'result_refused', detail: string): void => {
      const { execution, token } = commit
      const error = new BrambleError(code, { detail }).toProblem()
      bad.push({ failure: { execution, token, code, message: detail }, error })
    }
    if (verified[at] !== true) {
      refuse('signature_invalid', 'the receipt is not signed by this node')
      continue
    }
    const missing = await tenantBlobs.missing(node, commit.result)
    if (missing === undefined) {
      const { startedAtMs, finishedAtMs } = commit.receipt.receipt
      metrics.executed(Math.max(0, finishedAtMs - startedAtMs) / 1000)
      good.push(commit)
    } else refuse('result_refused', `the blob \`${missing}\` of the result was not put by this node with that size`)
  }
  return { good, bad }
}

export const keyOfLease = ({ execution, token }: LeaseRef): string => `${execution} ${token}`

/** The network's acknowledgements, with why the bad ones were not taken. */
export const explained = (acknowledged: readonly Acknowledgement[], bad: readonly BadCommit[]): Acknowledgement[] => {
  if (bad.length === 0) return [...acknowledged]
  const errors = new Map(bad.map(({ failure, error }) => [keyOfLease(failure), error]))
  return acknowledged.map((item) => {
    const error = errors.get(keyOfLease(item))
    return error ? { ...item, error } : item
  })
}
