import type { Engine, Execution } from '@bramble/engine'
import type { Identity } from '@bramble/identity'
import {
  type BlobHash,
  BrambleError,
  type ExecutionResult,
  type ExecutionSpec,
  executionSpecSchema,
  type Lease,
  outputsAsBlobs,
  parse,
  type Sealed,
  sealedInputsSchema,
  toBrambleError,
} from '@bramble/protocol'
import type { Execute, ExecuteLeaseContext, NetworkClock } from '../session/session.ts'
import { imageOf } from './image-of.ts'
import { packResult } from './job-result.ts'
import type { WorkerBlobs } from './worker-blobs.ts'

/** Output of commands that end sooner is not sent twice: their result has it. */
const LIVE_AFTER_MS = 100
/** A character of UTF-8 that the end of kept output cut off. */
const CUT_CHARACTER_BYTES = 3

export interface RunLeaseDeps {
  readonly engine: Engine
  readonly identity: Identity
  readonly blobs: WorkerBlobs
  readonly tenant: string
  readonly clock: NetworkClock
}

/** Runs leases by the engine of this node, on behalf of a tenant that no key has. */
export const leaseRunner = (deps: RunLeaseDeps): Execute => {
  const { engine, blobs, tenant, clock } = deps
  return async (lease, context) => {
    const { signal } = context
    const spec = await specOf(deps, lease, signal)
    await blobs.fetch(blobsOf(spec), signal)
    signal.throwIfAborted()
    const startedAtMs = clock.now()
    const began = performance.now()
    const execution = engine.execute(spec, { tenant, keyId: tenant, signal })
    const watched = watch(execution, context)
    const result = await execution.result
    // The clock may be corrected meanwhile.
    const finishedAtMs = startedAtMs + performance.now() - began
    await watched
    assertOwnEnd(result, spec)
    const { result: packed, blobs: uploads } = packResult(result, engine.tenantBlobs, tenant)
    for (const upload of uploads) await blobs.upload(upload, signal)
    const { inputHash, resultHash, usage } = result
    return {
      ...{ result: packed, inputHash, resultHash, startedAtMs, finishedAtMs },
      cpuMs: usage.cpuMs,
      peakMemoryBytes: usage.peakMemoryBytes,
    }
  }
}

const blobsOf = ({ files = {} }: ExecutionSpec): BlobHash[] =>
  Object.values(files).flatMap((file) => (typeof file === 'object' && 'blob' in file ? [file.blob as BlobHash] : []))

/**
 * What the engine is to run. A kept result of an earlier execution would prove nothing, so that mode `cached` runs as well; what
 * its hash is of stays the same.
 */
const specOf = async (
  deps: RunLeaseDeps,
  { spec, sealedInputs }: Lease,
  signal: AbortSignal,
): Promise<ExecutionSpec> => {
  const { cacheTtlMs: _ttl, cacheFailures: _failures, ...rest } = spec
  const plain: ExecutionSpec = { ...rest, mode: 'ephemeral', outputBlobs: outputsAsBlobs(spec) }
  const opened = sealedInputs === undefined ? plain : await withSealed(deps.identity, plain, sealedInputs)
  return { ...opened, image: await imageOf(deps.engine, spec.image, signal) }
}

const withSealed = async (identity: Identity, spec: ExecutionSpec, sealed: Sealed): Promise<ExecutionSpec> => {
  try {
    const bytes = await identity.open(sealed)
    const { env, files, stdin } = parse(sealedInputsSchema, JSON.parse(Buffer.from(bytes).toString()))
    return parse(executionSpecSchema, {
      ...spec,
      env: { ...spec.env, ...env },
      ...(files !== undefined && { files: { ...spec.files, ...files } }),
      ...(stdin !== undefined && { stdin }),
    })
  } catch (error) {
    const { code, detail } = toBrambleError(error)
    // Not the parser's words: they may hold what was sealed.
    const why = code === 'signature_invalid' ? detail : 'they are not the JSON of inputs that a spec may have'
    throw new BrambleError('invalid_request', { detail: `the sealed inputs cannot be used: ${why}` })
  }
}

/** Tells when it begins, and what it writes while it runs. Reads what the engine keeps: a slow reader holds nothing up. */
const watch = async (execution: Execution, { started, output }: ExecuteLeaseContext): Promise<void> => {
  const ended = execution.result.then(
    () => true,
    () => true,
  )
  let live = false
  for await (const event of execution) {
    if (event.type === 'started') started()
    if (event.type !== 'stdout' && event.type !== 'stderr') continue
    live ||= !(await Promise.race([ended, later(LIVE_AFTER_MS)]))
    if (!live || !(await Promise.race([ended.then(() => false), output(event.type, event.data)]))) return
  }
}

const later = (ms: number): Promise<false> => new Promise((resolve) => setTimeout(resolve, ms, false))

/** Throws where the end is the node's and not the command's: it would be said of a job what only holds of this node. */
const assertOwnEnd = (result: ExecutionResult, spec: ExecutionSpec): void => {
  const { status, message = '', truncated, stdout, stderr, encoding } = result
  if (status === 'error') throw new BrambleError('sandbox_died', { detail: message })
  if (status === 'cancelled') throw new BrambleError('shutting_down', { detail: 'the node ended the execution' })
  const { maxOutputBytes } = spec.resources
  const isFull = (text: string): boolean => Buffer.byteLength(text, encoding) + CUT_CHARACTER_BYTES >= maxOutputBytes
  if (truncated && !isFull(stdout) && !isFull(stderr))
    throw new BrambleError('queue_full', { detail: 'the node had no room to keep the output of the command' })
}
