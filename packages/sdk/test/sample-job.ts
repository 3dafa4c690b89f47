import { createIdentity, generateSecretKey, type Identity, nobleCurve, sha256Hex } from '@bramble/identity'
import {
  type Job,
  type JobEvidence,
  type JobResult,
  jobEvidenceSchema,
  jobSchema,
  newId,
  type Receipt,
  type ResultContent,
  resultHash,
} from '@bramble/protocol'

/** A job as a network would show it. */
export const sampleJob = (change: Partial<Job> = {}): Job =>
  jobSchema.parse({
    id: newId('job'),
    status: 'pending',
    command: 'echo hello',
    image: 'base',
    redundancy: 3,
    consensus: 2,
    strategy: 'lazy',
    policy: 'quorum',
    priority: 50,
    creditsRequired: 1,
    creditsSpent: 0,
    labels: {},
    diversity: 'strict',
    relaxed: [],
    createdAt: '2026-01-01T00:00:00.000Z',
    ...change,
  })

export const contentOf = (text: string): ResultContent => ({
  encoding: 'utf8',
  content: text,
  sizeBytes: new TextEncoder().encode(text).length,
  sha256: sha256Hex(text) as ResultContent['sha256'],
})

const NETWORK = `0x${sha256Hex('network')}`

export interface Agreement {
  readonly job: Job
  readonly evidence: JobEvidence
  readonly identities: readonly Identity[]
  /** A receipt of one of the nodes, with other contents, in the evidence's form. */
  receiptOf(index: number, change?: Partial<Receipt>): JobEvidence['receipts'][number]
}

/** A job on whose result `nodes` nodes of as many owners agreed, with what they signed. */
export const agreement = (nodes = 2): Agreement => {
  const identities = Array.from({ length: nodes }, () => createIdentity(generateSecretKey(), nobleCurve))
  const result: JobResult = {
    status: 'succeeded',
    exitCode: 0,
    stdout: contentOf('hello ✓\n'),
    stderr: contentOf(''),
    truncated: false,
    outputs: { '/out': contentOf('bytes'), '/none': { error: 'not_found' } },
  }
  const hash = resultHash(
    {
      status: 'succeeded',
      exitCode: 0,
      stdoutSha256: sha256Hex('hello ✓\n'),
      stderrSha256: sha256Hex(''),
      outputs: { '/out': sha256Hex('bytes'), '/none': 'not_found' },
    },
    sha256Hex,
  )
  const inputHash = sha256Hex('input')
  const verification = {
    policy: 'quorum',
    decidedBy: 'quorum',
    agreed: nodes,
    needed: 2,
    executions: nodes,
    corrected: false,
  } as const
  const job = sampleJob({ status: 'completed', result, resultHash: hash, inputHash, verification })
  const receiptOf: Agreement['receiptOf'] = (index, change = {}) => {
    const identity = identities[index]
    if (identity === undefined) throw new RangeError(`no node ${index}`)
    const [signed] = identity.signReceipts([
      {
        network: NETWORK,
        job: job.id,
        execution: newId('execution'),
        token: index + 1,
        node: identity.id,
        inputHash: `0x${inputHash}`,
        resultHash: `0x${hash}`,
        cpuMs: 1,
        peakMemoryBytes: 1,
        startedAtMs: 1,
        finishedAtMs: 2,
        ...change,
      },
    ])
    if (signed === undefined) throw new Error('nothing was signed')
    const { publicKey } = identity
    return { validity: 'agreed', established: true, weight: 1, publicKey, owner: `owner-${index}`, signed }
  }
  const evidence = jobEvidenceSchema.parse({
    job: job.id,
    status: 'completed',
    network: NETWORK,
    resultHash: hash,
    verification,
    receipts: identities.map((_, index) => receiptOf(index)),
  })
  return { job, evidence, identities, receiptOf }
}
