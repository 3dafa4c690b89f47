import { type NodeId, nodeIdSchema } from '@bramble/protocol'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesOfHex, toHex } from './hex.ts'

/** 32 random bytes that are a key of the curve. */
export const generateSecretKey = (): Uint8Array => secp256k1.utils.randomSecretKey()

/** Ids of keys that were asked for; a signature checked means one more look at its signer's. */
const known = new Map<string, NodeId>()
const MAX_KNOWN = 16_384

/**
 * The id of a compressed public key (`0x` hex): its Ethereum address in lower case, the last 20 bytes of the Keccak-256 of
 * the point's coordinates. Throws where it is no point of the curve. Costs 60 us, or nothing for a key seen lately.
 */
export const nodeIdOf = (publicKey: string): NodeId => {
  const before = known.get(publicKey)
  if (before !== undefined) return before
  const point = secp256k1.Point.fromBytes(bytesOfHex(publicKey, 33)).toBytes(false)
  const id = nodeIdSchema.parse(toHex(keccak_256(point.subarray(1)).subarray(12)))
  if (known.size >= MAX_KNOWN) known.clear()
  known.set(publicKey, id)
  return id
}
