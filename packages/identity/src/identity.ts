import type { NodeId, Receipt, Sealed, SignedReceipt } from '@bramble/protocol'

/**
 * Keys, and what is signed and sealed by them, wherever it runs: browser, client, coordinator, worker. A key is one of
 * secp256k1; its holder is named by its Ethereum address, so that the same identity serves a coordinator and a contract.
 *
 * The arithmetic of the curve is a `Curve`: `nobleCurve` runs anywhere, `wasmCurve` of `@bramble/identity/node` is five times
 * faster. All else here is the same over either. Everything is bytes or `0x` hex in lower case.
 *
 * Signatures are over digests that nothing else can have: EIP-712 for receipts, and for the rest the SHA-256 of canonical JSON
 * that begins with a purpose (`bramble/hello/1`, `bramble/request/1`, `bramble/route/1`).
 */
export interface Curve {
  /** 65 bytes: r, s (the lower one), 27 + recovery id. Deterministic (RFC 6979). */
  sign(digest: Uint8Array, secretKey: Uint8Array): Uint8Array
  /** The compressed public key that made it; undefined where none can have. Refuses a high s, so that a signature has one form. */
  recover(digest: Uint8Array, signature: Uint8Array): Uint8Array | undefined
  /** Whether that key made it, recovery id included: what passes here passes a contract that recovers the signer. */
  verify(digest: Uint8Array, signature: Uint8Array, publicKey: Uint8Array): boolean
  publicKeyOf(secretKey: Uint8Array): Uint8Array
  /** The shared point's x coordinate of ECDH. Throws for what is no point. */
  sharedSecret(secretKey: Uint8Array, publicKey: Uint8Array): Uint8Array
}

/** A key that can sign; its secret never leaves it. */
export interface Identity {
  readonly id: NodeId
  /** Compressed, `0x` hex. */
  readonly publicKey: string
  /** 65 bytes in `0x` hex, over a digest of 32 bytes. */
  sign(digest: Uint8Array): string
  /** One alone, or several at once by one signature over their Merkle root. */
  signReceipts(receipts: readonly Receipt[]): SignedReceipt[]
  /** Opens what was sealed to its public key. Throws `signature_invalid` where it was changed, or is another's. */
  open(sealed: Sealed): Promise<Uint8Array>
  /** A key for the frames of a session, from a session key of the other side (HKDF-SHA-256 over ECDH). */
  sessionKey(peerPublicKey: string, salt: Uint8Array): Uint8Array
}

/** A request of a node, as its signature covers it. */
export interface SignedRequest {
  readonly method: string
  /** With the query. */
  readonly path: string
  readonly bodySha256: string
  readonly timestampMs: number
  /** 16 random bytes in hex. */
  readonly nonce: string
}
