import { hash } from 'node:crypto'
import { type JobResult, type NodeId, type Receipt, resultHash, type SignedReceipt } from '@bramble/protocol'

const sha256 = (data: string | Uint8Array): string => hash('sha256', data, 'hex')

/** A key whose signatures are hashes: only who has the secret can make or check one, which here is the world. */
export interface SimulatedKey {
  readonly id: NodeId
  readonly publicKey: string
  readonly secret: string
}

export const keyOf = (seed: number, name: string): SimulatedKey => {
  const secret = sha256(`${seed} ${name}`)
  return {
    id: `0x${sha256(`id ${secret}`).slice(0, 40)}` as NodeId,
    publicKey: `0x02${sha256(`key ${secret}`)}`,
    secret,
  }
}

const signatureOf = ({ secret }: SimulatedKey, receipt: Receipt): string => {
  const { network, job, execution, token, node, inputHash, resultHash: result } = receipt
  return `0x${sha256(`${secret} ${network} ${job} ${execution} ${token} ${node} ${inputHash} ${result}`)}`
}

export const signReceipt = (key: SimulatedKey, receipt: Receipt): SignedReceipt => ({
  receipt,
  signature: signatureOf(key, receipt),
})

export const isSignedBy = (key: SimulatedKey | undefined, { receipt, signature }: SignedReceipt): boolean =>
  key !== undefined && signature === signatureOf(key, receipt)

const made = new Map<string, { readonly result: JobResult; readonly hash: string }>()

/** The result of a command that wrote `stdout`, with its hash. */
export const resultOf = (stdout: string): { readonly result: JobResult; readonly hash: string } => {
  const known = made.get(stdout)
  if (known) return known
  const content = (text: string) => ({
    encoding: 'utf8' as const,
    content: text,
    sizeBytes: Buffer.byteLength(text),
    sha256: sha256(text) as JobResult['stdout']['sha256'],
  })
  const result: JobResult = {
    status: 'succeeded',
    exitCode: 0,
    stdout: content(stdout),
    stderr: content(''),
    truncated: false,
    outputs: {},
  }
  const digests = {
    status: result.status,
    exitCode: result.exitCode,
    signal: undefined,
    stdoutSha256: result.stdout.sha256,
    stderrSha256: result.stderr.sha256,
    outputs: {},
  }
  const answer = { result, hash: resultHash(digests, sha256) }
  if (made.size > 10_000) made.clear()
  made.set(stdout, answer)
  return answer
}

export const inputHashOf = (command: unknown): string => sha256(JSON.stringify(command))
