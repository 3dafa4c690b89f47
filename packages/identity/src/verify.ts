import type { Receipt, SignedReceipt } from '@bramble/protocol'
import { bytesOfHex, toHex } from './hex.ts'
import type { Curve } from './identity.ts'
import { nodeIdOf } from './keys.ts'
import { merkleTree, rootOf } from './merkle.ts'
import { batchDigest, receiptDigest } from './receipt-digest.ts'

/** A proof of 16 siblings leads to the root of 65,536 receipts. */
const MAX_PROOF = 16

/** Whether the key's holder signed that digest: `0x` hex of 65 bytes and of 33. False for whatever is malformed. */
export const verifySignature = (digest: Uint8Array, signature: string, publicKey: string, curve: Curve): boolean => {
  let bytes: { readonly signature: Uint8Array; readonly publicKey: Uint8Array }
  try {
    bytes = { signature: bytesOfHex(signature, 65), publicKey: bytesOfHex(publicKey, 33) }
  } catch {
    return false
  }
  return curve.verify(digest, bytes.signature, bytes.publicKey)
}

export interface ReceiptOfSigner {
  readonly signed: SignedReceipt
  /** Of the node that is to have signed it, compressed, in `0x` hex. */
  readonly publicKey: string
}

/** The digest that the signature must be of; undefined where the receipt cannot be one of that key. */
const signedDigest = ({ signed, publicKey }: ReceiptOfSigner): Uint8Array | undefined => {
  const { receipt, proof } = signed
  try {
    if (nodeIdOf(publicKey) !== receipt.node) return undefined
    const leaf = receiptDigest(receipt)
    if (proof === undefined) return leaf
    if (proof.length > MAX_PROOF) return undefined
    const siblings = proof.map((sibling) => bytesOfHex(sibling, 32))
    return batchDigest(rootOf(leaf, siblings))
  } catch {
    return undefined
  }
}

/**
 * For each receipt, whether the holder of its key signed it and is the node that it names. A signature over several is
 * checked once. False for whatever is malformed; nothing is thrown.
 */
export const verifyReceipts = (receipts: readonly ReceiptOfSigner[], curve: Curve): boolean[] => {
  const verdicts = new Map<string, boolean>()
  return receipts.map((item) => {
    const digest = signedDigest(item)
    if (digest === undefined) return false
    const { signature } = item.signed
    const key = `${toHex(digest)} ${signature} ${item.publicKey}`
    const before = verdicts.get(key)
    if (before !== undefined) return before
    const verdict = verifySignature(digest, signature, item.publicKey, curve)
    verdicts.set(key, verdict)
    return verdict
  })
}

/** One receipt is signed by itself; several are, by their root, up to 65,536. */
export const signReceipts = (receipts: readonly Receipt[], sign: (digest: Uint8Array) => string): SignedReceipt[] => {
  const leaves = receipts.map(receiptDigest)
  const [receipt, second] = receipts
  const [leaf] = leaves
  if (receipt === undefined || leaf === undefined) return []
  if (second === undefined) return [{ receipt, signature: sign(leaf) }]
  if (receipts.length > 2 ** MAX_PROOF)
    throw new RangeError(`${receipts.length} receipts are too many for one signature`)
  const { root, proofs } = merkleTree(leaves)
  const signature = sign(batchDigest(root))
  return receipts.map((each, index) => ({ receipt: each, proof: (proofs[index] ?? []).map(toHex), signature }))
}
