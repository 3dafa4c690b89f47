import type { IncomingHttpHeaders } from 'node:http'
import type { NodeRequests } from '@bramble/http'
import { bytesOfHex, type Curve, nodeIdOf, requestDigest, toHex } from '@bramble/identity'
import { BrambleError, LIMITS, type NodeId, nodeIdSchema, signatureSchema } from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import { type AddressOf, clientOf } from './address.ts'
import type { FrontContext } from './front-context.ts'

/** Who signed a request. */
export interface Signer {
  readonly node: NodeId
  /** Compressed, in `0x` hex; its address is the node's id. */
  readonly publicKey: string
}

export interface SignedNodes extends NodeRequests {
  verify(request: FastifyRequest, bodySha256: string): Promise<void>
  /** Of a request that was verified; undefined for one that came with a key. */
  signerOf(request: FastifyRequest): Signer | undefined
}

interface Claim {
  readonly node: NodeId
  readonly timestampMs: number
  readonly nonce: string
  readonly signature: string
}

/** The one request of a node that is not known yet. */
export const REGISTER_PATH = '/api/v1/nodes/register'

const MAX_REMEMBERED_NODES = 131_072
const NONCE = /^[0-9a-f]{32}$/
const TIMESTAMP = /^\d{1,15}$/

const text = (headers: IncomingHttpHeaders, name: string): string => {
  const value = headers[name]
  return typeof value === 'string' ? value : ''
}

/** Throws `signature_invalid` for headers that no node sends. */
const claimOf = ({ headers }: Pick<FastifyRequest, 'headers'>): Claim => {
  const node = nodeIdSchema.safeParse(text(headers, 'bramble-node'))
  const signature = signatureSchema.safeParse(text(headers, 'bramble-signature'))
  const nonce = text(headers, 'bramble-nonce')
  const timestamp = text(headers, 'bramble-timestamp')
  if (node.success && signature.success && NONCE.test(nonce) && TIMESTAMP.test(timestamp))
    return { node: node.data, signature: signature.data, nonce, timestampMs: Number(timestamp) }
  throw new BrambleError('signature_invalid', {
    detail: 'it needs the headers `bramble-node`, `bramble-timestamp`, `bramble-nonce` and `bramble-signature`',
  })
}

/** The key that signed `digest`, where its address is that node: so no key has to be looked up. */
export const signerOf = (curve: Curve, digest: Uint8Array, signature: string, node: NodeId): Signer | undefined => {
  const recovered = curve.recover(digest, bytesOfHex(signature, 65))
  if (recovered === undefined) return undefined
  const publicKey = toHex(recovered)
  return nodeIdOf(publicKey) === node ? { node, publicKey } : undefined
}

export interface NodeRequestsOptions extends Pick<FrontContext, 'network' | 'curve' | 'rates' | 'now'> {
  readonly addressOf: AddressOf
}

/**
 * Checks requests that nodes sign: the cheap things first, then the signature (0.2 ms), then that the nonce is new. Addresses that
 * fail often are refused before.
 */
export const createNodeRequests = (options: NodeRequestsOptions): SignedNodes => {
  const { network, curve, rates, now, addressOf } = options
  const signers = new WeakMap<FastifyRequest, Signer>()
  const registered = new Set<NodeId>()

  /** Nonces are remembered for nodes of the network alone: others could fill the memory for them. */
  const requireRegistered = async (node: NodeId, client: string): Promise<void> => {
    if (registered.has(node)) return
    if ((await network.nodes.publicKey(node)) === undefined) {
      rates.failures.owe(client, 1)
      throw new BrambleError('not_found', { detail: `there is no node \`${node}\`: register it first` })
    }
    if (registered.size >= MAX_REMEMBERED_NODES) registered.clear()
    registered.add(node)
  }

  return {
    admit: (request) => {
      const client = clientOf(addressOf(request.raw))
      rates.failures.check(client)
      try {
        const { timestampMs } = claimOf(request)
        const serverTimeMs = now()
        if (Math.abs(timestampMs - serverTimeMs) > LIMITS.maxClockSkewMs.value)
          throw new BrambleError('clock_skew', {
            detail: `it says ${timestampMs}; serverTimeMs is ${serverTimeMs}`,
          })
      } catch (error) {
        if (error instanceof BrambleError && error.code !== 'clock_skew') rates.failures.owe(client, 1)
        throw error
      }
    },
    verify: async (request, bodySha256) => {
      const { node, timestampMs, nonce, signature } = claimOf(request)
      const path = request.raw.url ?? ''
      const digest = requestDigest({ method: request.method, path, bodySha256, timestampMs, nonce })
      const signer = signerOf(curve, digest, signature, node)
      const client = clientOf(addressOf(request.raw))
      if (!signer) {
        rates.failures.owe(client, 1)
        throw new BrambleError('signature_invalid', { detail: `\`${node}\` did not sign this request` })
      }
      if (request.routeOptions.url === REGISTER_PATH) {
        rates.registrations.take(client)
        rates.allRegistrations.take('all')
      } else {
        await requireRegistered(node, client)
        rates.nodeRequests.take(node)
      }
      if (!(await network.takeNonce(node, nonce)))
        throw new BrambleError('replayed', { detail: `the nonce \`${nonce}\` was used` })
      signers.set(request, signer)
    },
    signerOf: (request) => signers.get(request),
  }
}
