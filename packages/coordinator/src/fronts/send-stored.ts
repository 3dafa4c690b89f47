import { sendBlob } from '@bramble/http'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { FrontContext } from './front-context.ts'

/** A blob of the network's store; whoever calls has made sure that the caller may read it. */
export const sendStored = async (
  { request, reply, signal }: { request: FastifyRequest; reply: FastifyReply; signal: AbortSignal },
  hash: BlobHash,
  { blobs, limits: { stallTimeoutMs } }: Pick<FrontContext, 'blobs' | 'limits'>,
) => {
  const info = await blobs.stat(hash, { signal })
  if (!info) throw new BrambleError('blob_not_found', { detail: `\`${hash}\`` })
  const open = (range?: { start: number; end: number }) => blobs.get(hash, { ...(range && { range }), signal })
  return sendBlob(request, reply, { hash, sizeBytes: info.sizeBytes, open, stallTimeoutMs, count: () => {} })
}
