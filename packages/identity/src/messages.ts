import { canonicalJson, type Hello, type Json } from '@bramble/protocol'
import { sha256 } from '@noble/hashes/sha2.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import type { SignedRequest } from './identity.ts'

/** SHA-256 of the canonical JSON `[purpose, content]`: what is signed for one purpose is of no use for another. */
export const messageDigest = (purpose: string, content: Json): Uint8Array =>
  sha256(utf8ToBytes(canonicalJson([purpose, content])))

/**
 * What a worker signs to open a session: the challenge, and all that its hello says but the signature. Throws `TypeError` for what
 * canonical JSON cannot write.
 */
export const helloDigest = (
  { nonce, network }: { readonly nonce: string; readonly network: string },
  said: Omit<Hello, 'signature'> & { readonly signature?: string },
): Uint8Array => {
  const { signature: _over, ...hello } = said
  return messageDigest('bramble/hello/1', { nonce, network, hello: hello as Json })
}

/** What a node signs of a request that it sends outside a session. */
export const requestDigest = ({ method, path, bodySha256, timestampMs, nonce }: SignedRequest): Uint8Array =>
  messageDigest('bramble/request/1', { method, path, bodySha256, timestampMs, nonce })
