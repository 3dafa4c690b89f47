import { type Curve, nobleCurve, nodeIdOf, verifyReceipts as signaturesHold } from '@bramble/identity'
import {
  type Job,
  type JobEvidence,
  type JobId,
  jobEvidenceSchema,
  type NodeId,
  parse,
  type Validity,
} from '@bramble/protocol'
import { faultOfResult } from './result-fault.ts'

export interface VerifyOptions {
  /** The job as the network shows it: its result is then hashed here and compared. */
  readonly job?: Job | undefined
  /** Keys that are believed (33 bytes in `0x` hex), got from whoever runs the nodes. Default: any, as the evidence names them. */
  readonly publicKeys?: readonly string[] | undefined
  /** Of which network it must be. Default: the one that the evidence names. */
  readonly network?: string | undefined
  /** How many nodes must agree. Default: as many as the evidence says were needed, by the job's policy. */
  readonly consensus?: number | undefined
  /** Of what must have been run. Default: that all receipts have the same. */
  readonly inputHash?: string | undefined
  /**
   * `fuzzy`: the job asked for it, so receipts of results that differ within its tolerances count too. That they are within
   * them is the network's word: their outputs are not in the evidence.
   */
  readonly comparator?: 'exact' | 'fuzzy' | undefined
  /** Default: one that runs anywhere. `wasmCurve()` of `@bramble/identity/node` is five times as fast. */
  readonly curve?: Curve | undefined
}

export type EvidenceFaultCode =
  | 'no_verdict'
  | 'other_job'
  | 'other_network'
  | 'not_its_key'
  | 'unknown_key'
  | 'bad_signature'
  | 'other_result'
  | 'other_input'
  | 'repeated'
  | 'too_few_nodes'
  | 'too_few_owners'
  | 'result_differs'

/** Why evidence does not hold; of one receipt where `execution` is there. */
export interface EvidenceFault {
  readonly code: EvidenceFaultCode
  readonly message: string
  readonly node?: NodeId
  readonly execution?: string
}

export interface CheckedReceipt {
  readonly node: NodeId
  readonly execution: string
  /** As the network says. */
  readonly owner: string
  readonly validity: Validity
  /** The node that it names has signed it. */
  readonly signed: boolean
  /** It speaks for the verdict: signed, of this job and network, for this input and result, and its node's only one. */
  readonly counts: boolean
}

export interface EvidenceReport {
  /** Nothing is wrong with the evidence, and enough nodes speak for the verdict. */
  readonly valid: boolean
  readonly job: JobId
  readonly resultHash?: string
  readonly inputHash?: string
  readonly needed: number
  /** Whose receipts speak for the verdict. */
  readonly nodes: readonly NodeId[]
  readonly owners: readonly string[]
  readonly receipts: readonly CheckedReceipt[]
  /** The result of the job that was passed is what the receipts are of. */
  readonly resultChecked: boolean
  readonly faults: readonly EvidenceFault[]
}

type Entry = JobEvidence['receipts'][number]

/** Hashes are written with `0x` in receipts and without in jobs. */
const plain = (hash: string): string => hash.replace(/^0x/, '')

const isKeyOf = (publicKey: string, node: NodeId): boolean => {
  try {
    return nodeIdOf(publicKey) === node
  } catch {
    return false
  }
}

/** What is wrong with one receipt by itself, whoever else agrees. */
const ownFault = (
  { signed: { receipt }, publicKey }: Entry,
  holds: boolean,
  expected: { readonly job: JobId; readonly network: string; readonly publicKeys: ReadonlySet<string> | undefined },
): readonly [EvidenceFaultCode, string] | undefined => {
  if (receipt.job !== expected.job) return ['other_job', `it is of job ${receipt.job}`]
  if (plain(receipt.network) !== plain(expected.network))
    return ['other_network', `it is of network ${receipt.network}`]
  if (!isKeyOf(publicKey, receipt.node)) return ['not_its_key', `its key is not the one of node ${receipt.node}`]
  if (expected.publicKeys?.has(publicKey) === false)
    return ['unknown_key', `${publicKey} is not a key that is believed`]
  if (!holds) return ['bad_signature', `node ${receipt.node} did not sign it`]
  return undefined
}

/**
 * Checks the evidence of a verdict without trusting who gives it: that each receipt was signed by the node that it names
 * (whose name is the address of its key), for this job and network; that those which agree are of one input and of the
 * verdict's result, one a node; that there are enough of them; and that the result of the job, where it is passed, is the
 * one that they signed. What it cannot check, since nobody signs it, is who owns a node.
 *
 * Answers with what it found, and throws `invalid_request` only for what is no evidence.
 */
export const verifyReceipts = (given: JobEvidence, options: VerifyOptions = {}): EvidenceReport => {
  const evidence = parse(jobEvidenceSchema, given)
  const { job } = options
  const faults: EvidenceFault[] = []
  const fault = (code: EvidenceFaultCode, message: string) => void faults.push({ code, message })

  const verdict = evidence.resultHash === undefined ? undefined : plain(evidence.resultHash)
  if (evidence.status !== 'completed' || verdict === undefined)
    fault('no_verdict', `the job is ${evidence.status}: there is no result that was agreed on`)
  if (job !== undefined && job.id !== evidence.job) fault('other_job', `the evidence is of job ${evidence.job}`)
  const network = options.network ?? evidence.network
  if (plain(network) !== plain(evidence.network))
    fault('other_network', `the evidence is of network ${evidence.network}`)

  const holds = signaturesHold(evidence.receipts, options.curve ?? nobleCurve)
  const publicKeys = options.publicKeys && new Set(options.publicKeys)
  const agreed = evidence.receipts.filter(({ validity }) => validity === 'agreed')
  const inputHash = plain(options.inputHash ?? job?.inputHash ?? agreed[0]?.signed.receipt.inputHash ?? '')
  const spoken = new Set<NodeId>()

  const receipts = evidence.receipts.map((entry, index): CheckedReceipt => {
    const { validity, owner } = entry
    const { receipt } = entry.signed
    const { node, execution } = receipt
    const own = ownFault(entry, holds[index] === true, { job: evidence.job, network, publicKeys })
    const isOther = verdict !== undefined && plain(receipt.resultHash) !== verdict && options.comparator !== 'fuzzy'
    const wrong =
      own ??
      (validity !== 'agreed'
        ? undefined
        : plain(receipt.inputHash) !== inputHash
          ? (['other_input', 'it is of another input'] as const)
          : isOther
            ? (['other_result', 'it is of another result, and is said to agree'] as const)
            : spoken.has(node)
              ? (['repeated', `node ${node} speaks twice`] as const)
              : undefined)
    // A key that is not believed is no fault of the evidence: its receipt just does not count.
    if (wrong !== undefined && wrong[0] !== 'unknown_key')
      faults.push({ code: wrong[0], message: `receipt of ${execution}: ${wrong[1]}`, node, execution })
    const counts = wrong === undefined && validity === 'agreed'
    if (counts) spoken.add(node)
    return { node, execution, owner, validity, signed: holds[index] === true, counts }
  })

  const speaking = receipts.filter(({ counts }) => counts)
  const owners = [...new Set(speaking.map(({ owner }) => owner))]
  const needed = options.consensus ?? evidence.verification?.needed ?? job?.consensus ?? 1
  if (verdict !== undefined && spoken.size < needed)
    fault('too_few_nodes', `${spoken.size} of ${needed} nodes speak for the verdict`)
  if (verdict !== undefined && owners.length < needed && !job?.relaxed.includes('owner'))
    fault('too_few_owners', `${owners.length} of ${needed} owners speak for the verdict`)

  const differs = job && verdict !== undefined ? faultOfResult(job, verdict) : undefined
  if (differs !== undefined) fault('result_differs', differs)
  return {
    valid: faults.length === 0,
    job: evidence.job,
    ...(verdict !== undefined && { resultHash: verdict }),
    ...(inputHash !== '' && { inputHash }),
    needed,
    nodes: [...spoken],
    owners,
    receipts,
    resultChecked: job !== undefined && verdict !== undefined && differs === undefined,
    faults,
  }
}
