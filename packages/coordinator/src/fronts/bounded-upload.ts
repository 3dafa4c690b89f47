import type { IncomingMessage } from 'node:http'
import { receiveBytes } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import type { FrontLimits } from './limits.ts'

/** The body of an upload with its declared size: without one nobody can be told in time that it is too large. */
export const boundedUpload = (
  raw: IncomingMessage,
  { maxUploadBytes, uploadStallMs }: Pick<FrontLimits, 'maxUploadBytes' | 'uploadStallMs'>,
): { source: AsyncGenerator<Buffer>; sizeBytes: number } => {
  const coding = raw.headers['content-encoding'] ?? 'identity'
  if (coding !== 'identity')
    throw new BrambleError('unsupported_media_type', { detail: `content-encoding \`${coding}\` is not read` })
  const sizeBytes = Number(raw.headers['content-length'] ?? Number.NaN)
  if (!Number.isSafeInteger(sizeBytes))
    throw new BrambleError('invalid_request', { detail: 'a blob needs `Content-Length`' })
  if (sizeBytes > maxUploadBytes)
    throw new BrambleError('body_too_large', { detail: `the blob is larger than ${maxUploadBytes} bytes` })
  return { source: receiveBytes(raw, { stallTimeoutMs: uploadStallMs, count: () => {} }), sizeBytes }
}
