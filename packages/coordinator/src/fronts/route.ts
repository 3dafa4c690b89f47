import { routesOf } from '@bramble/http'
import { BrambleError, type NodeId } from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import type { FrontContext } from './front-context.ts'
import type { Signer } from './node-requests.ts'

/** Declares a route of a coordinator. */
export const route = routesOf<FrontContext>()

/** Who signed it. Throws `forbidden` where the path names another node. */
export const requireSigner = ({ nodes }: FrontContext, request: FastifyRequest, id?: NodeId): Signer => {
  const signer = nodes.signerOf(request)
  if (!signer) throw new BrambleError('signature_invalid', { detail: 'the request is not signed by a node' })
  if (id !== undefined && id !== signer.node)
    throw new BrambleError('forbidden', { detail: `\`${signer.node}\` signed it, and \`${id}\` is another node` })
  return signer
}
