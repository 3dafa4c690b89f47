import { hash } from 'node:crypto'
import { type JobResult, LIMITS, type Receipt, type ResultContent, resultHash, type Sha256 } from '@bramble/protocol'

/**
 * Whether what a node sent is what its receipt says, and the receipt is of the lease that it holds. Both have passed their
 * schemas; the signature is verified elsewhere. Blobs are named by their digest: that they are there, with that size, is for
 * the caller to see (`blobsOf`).
 */
export interface CheckedLease extends Pick<Receipt, 'network' | 'job' | 'execution' | 'token' | 'node'> {
  /** Of the job's spec. */
  readonly maxOutputBytes: number
  readonly outputs: readonly string[]
}

export type Checked =
  | { readonly ok: true; readonly inputHash: string; readonly resultHash: string }
  /** What the node's owner should know. */
  | { readonly ok: false; readonly message: string }

const sha256: Sha256 = (data) => hash('sha256', data)
const DAY_MS = 24 * 3_600_000
/** Longer than any command may run, with the waiting before it. */
const maxRunMs = LIMITS.maxTimeoutMs.value + DAY_MS
/** Processor time is of all processors together. */
const maxCpuMs = maxRunMs * LIMITS.maxCpus.value
const maxPeakMemoryBytes = LIMITS.maxMemoryMb.value * 1024 * 1024
/** A text that is cut keeps whole characters: up to three bytes less. */
const maxCutBytes = 3

export const checkResult = (lease: CheckedLease, receipt: Receipt, result: JobResult): Checked => {
  const message = faultOfReceipt(lease, receipt) ?? faultOfResult(lease, result) ?? faultOfHash(receipt, result)
  if (message !== undefined) return { ok: false, message }
  return { ok: true, inputHash: receipt.inputHash.slice(2), resultHash: receipt.resultHash.slice(2) }
}

/** Contents that are not in the result itself. */
export const blobsOf = ({ stdout, stderr, outputs }: JobResult): Extract<ResultContent, { blob: unknown }>[] =>
  [stdout, stderr, ...Object.values(outputs)].filter((content) => 'blob' in content)

const MUST_MATCH = ['network', 'job', 'execution', 'token', 'node'] as const

const faultOfReceipt = (lease: CheckedLease, receipt: Receipt): string | undefined => {
  for (const field of MUST_MATCH) {
    if (receipt[field] !== lease[field])
      return `its receipt says ${field} ${receipt[field]}, but the lease is of ${lease[field]}`
  }
  for (const field of ['inputHash', 'resultHash'] as const) {
    if (!/^0x[0-9a-f]{64}$/.test(receipt[field])) return `its receipt’s ${field} is not 0x and 64 hex digits`
  }
  const { cpuMs, peakMemoryBytes, startedAtMs, finishedAtMs } = receipt
  const bounded = (name: string, value: number, max: number): string | undefined =>
    Number.isSafeInteger(value) && value >= 0 && value <= max
      ? undefined
      : `its receipt’s ${name} (${value}) is not a whole number from 0 to ${max}`
  return (
    bounded('cpuMs', cpuMs, maxCpuMs) ??
    bounded('peakMemoryBytes', peakMemoryBytes, maxPeakMemoryBytes) ??
    bounded('startedAtMs', startedAtMs, Number.MAX_SAFE_INTEGER) ??
    bounded('finishedAtMs', finishedAtMs, Number.MAX_SAFE_INTEGER) ??
    bounded('finishedAtMs - startedAtMs', finishedAtMs - startedAtMs, maxRunMs)
  )
}

const ENDED = ['succeeded', 'failed', 'timeout', 'oom']

const faultOfResult = (lease: CheckedLease, result: JobResult): string | undefined => {
  const { status, exitCode, stdout, stderr, truncated, outputs } = result
  if (!ENDED.includes(status)) return `\`${status}\` is no result: an execution that could not run is a failure`
  if (exitCode !== null && !(Number.isInteger(exitCode) && exitCode >= 0 && exitCode <= 255))
    return `the exit code ${exitCode} is not between 0 and 255`
  if ((status === 'succeeded' && exitCode !== 0) || (status === 'failed' && (exitCode === 0 || exitCode === null)))
    return `\`${status}\` with exit code ${exitCode} cannot be`
  const { maxOutputBytes } = lease
  const longest = Math.max(stdout.sizeBytes, stderr.sizeBytes)
  if (truncated && longest < maxOutputBytes - maxCutBytes)
    return `it says that output was cut, but has ${longest} bytes of ${maxOutputBytes}`
  const undeclared = Object.keys(outputs).find((path) => !lease.outputs.includes(path))
  if (undeclared !== undefined) return `the output ${JSON.stringify(undeclared)} was not asked for`
  for (const [name, content] of Object.entries({ stdout, stderr })) {
    const fault = faultOfContent(content, maxOutputBytes)
    if (fault !== undefined) return `${name} ${fault}`
  }
  for (const [path, content] of Object.entries(outputs)) {
    const fault = 'error' in content ? undefined : faultOfContent(content, LIMITS.maxBlobBytes.value)
    if (fault !== undefined) return `the output ${JSON.stringify(path)} ${fault}`
  }
  return undefined
}

const faultOfContent = (content: ResultContent, maxBytes: number): string | undefined => {
  const { sizeBytes, sha256: digest } = content
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > maxBytes)
    return `has ${sizeBytes} bytes, and may have ${maxBytes}`
  if ('blob' in content) return content.blob === digest ? undefined : 'names a blob that is not its SHA-256'
  const max = LIMITS.maxInlineResultBytes.value
  // Base64 is a third longer than its bytes; what is longer than that is not even decoded.
  if (content.content.length > Math.ceil(max / 3) * 4) return `is longer than ${max} bytes: more is a blob`
  const bytes = Buffer.from(content.content, content.encoding)
  if (bytes.length > max) return `is longer than ${max} bytes: more is a blob`
  if (bytes.length !== sizeBytes) return `has ${bytes.length} bytes, not the ${sizeBytes} that it says`
  if (content.encoding === 'base64' && bytes.toString('base64') !== content.content) return 'is not base64'
  return sha256(bytes) === digest ? undefined : 'does not have the SHA-256 that it says'
}

const faultOfHash = (receipt: Receipt, result: JobResult): string | undefined => {
  const digests: Record<string, string> = {}
  for (const [path, content] of Object.entries(result.outputs))
    digests[path] = 'error' in content ? content.error : content.sha256
  try {
    const computed = resultHash(
      {
        status: result.status,
        exitCode: result.exitCode,
        signal: result.signal,
        stdoutSha256: result.stdout.sha256,
        stderrSha256: result.stderr.sha256,
        outputs: digests,
      },
      sha256,
    )
    // No hash is named: the message is shown before the verdict.
    return `0x${computed}` === receipt.resultHash ? undefined : 'its result is not the one whose hash its receipt signs'
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    return `its result has no hash: ${error.message}`
  }
}
