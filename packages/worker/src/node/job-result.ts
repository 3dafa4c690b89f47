import { isUtf8 } from 'node:buffer'
import { hash } from 'node:crypto'
import type { Engine } from '@bramble/engine'
import { type BlobHash, type ExecutionResult, type JobResult, LIMITS, type ResultContent } from '@bramble/protocol'
import type { UploadBlob } from './worker-blobs.ts'

/** Of all contents of a result that go with it, as JSON text: a result is one message, with its receipt. */
const MAX_INLINE_JSON_BYTES = LIMITS.maxFrameBytes.value / 2

export interface PackedResult {
  readonly result: JobResult
  /** To be at the coordinator before the result is. */
  readonly blobs: readonly UploadBlob[]
}

type Outputs = Pick<Engine['tenantBlobs'], 'get'>

/** What a node says of an execution: contents that are small with it, the others as blobs. */
export const packResult = (result: ExecutionResult, outputBlobs: Outputs, tenant: string): PackedResult => {
  const blobs: UploadBlob[] = []
  let leftBytes = MAX_INLINE_JSON_BYTES

  const content = (bytes: Buffer): ResultContent => {
    const sizeBytes = bytes.length
    const sha256 = hash('sha256', bytes) as BlobHash
    if (sizeBytes <= LIMITS.maxInlineResultBytes.value) {
      const encoding = isUtf8(bytes) ? 'utf8' : 'base64'
      const text = bytes.toString(encoding)
      const jsonBytes = Buffer.byteLength(JSON.stringify(text))
      if (jsonBytes <= leftBytes) {
        leftBytes -= jsonBytes
        return { encoding, content: text, sizeBytes, sha256 }
      }
    }
    blobs.push({ hash: sha256, sizeBytes, open: () => bytes })
    return { blob: sha256, sizeBytes, sha256 }
  }

  const kept = (blob: BlobHash, sizeBytes: number): ResultContent => {
    const open = async function* (): AsyncGenerator<Uint8Array> {
      yield* await outputBlobs.get(tenant, blob)
    }
    blobs.push({ hash: blob, sizeBytes, open })
    return { blob, sizeBytes, sha256: blob }
  }

  const outputs: JobResult['outputs'] = {}
  const stdout = content(Buffer.from(result.stdout, result.encoding))
  const stderr = content(Buffer.from(result.stderr, result.encoding))
  for (const [path, file] of Object.entries(result.outputs)) {
    if ('error' in file) outputs[path] = { error: file.error }
    else if ('blob' in file) outputs[path] = kept(file.blob, file.sizeBytes)
    else outputs[path] = content(Buffer.from(file.content, file.encoding))
  }
  const { status, exitCode, signal, truncated } = result
  return {
    result: { status, exitCode, ...(signal !== undefined && { signal }), stdout, stderr, truncated, outputs },
    blobs,
  }
}
