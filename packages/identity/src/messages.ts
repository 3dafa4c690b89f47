import { canonicalJson, type Json, type NodeId } from '@bramble/protocol'
import { sha256 } from '@noble/hashes/sha2.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import type { SignedRequest } from './identity.ts'

/** SHA-256 of the canonical JSON `[purpose, content]`: what is signed for one purpose is of no use for another. */
export const messageDigest = (purpose: string, content: Json): Uint8Array =>
  sha256(utf8ToBytes(canonicalJson([purpose, content])))

/** What a worker signs to open a session: the challenge, and the key that the session's codes come from. */
export const helloDigest = (
  challenge: { readonly nonce: string; readonly network: string },
  { node, sessionKey }: { readonly node: NodeId; readonly sessionKey: string },
): Uint8Array =>
  messageDigest('bramble/hello/1', { nonce: challenge.nonce, network: challenge.network, node, sessionKey })

/** What a node signs of a request that it sends outside a session. */
export const requestDigest = ({ method, path, bodySha256, timestampMs, nonce }: SignedRequest): Uint8Array =>
  messageDigest('bramble/request/1', { method, path, bodySha256, timestampMs, nonce })
