import { hkdf } from '@noble/hashes/hkdf.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import { bytesOfHex, toHex } from './hex.ts'
import type { Curve, Identity } from './identity.ts'
import { nodeIdOf } from './keys.ts'
import { openSealed } from './sealed.ts'
import { signReceipts } from './verify.ts'

const SESSION = utf8ToBytes('bramble/session/1')

/** The identity of a secret key of 32 bytes, which is copied. Throws a `TypeError` for what is no key of the curve. */
export const createIdentity = (secretKey: Uint8Array, curve: Curve): Identity => {
  if (secretKey.length !== 32) throw new TypeError(`a secret key has 32 bytes, not ${secretKey.length}`)
  const secret = Uint8Array.from(secretKey)
  const publicKey = toHex(curve.publicKeyOf(secret))
  const sign = (digest: Uint8Array): string => toHex(curve.sign(digest, secret))
  return {
    id: nodeIdOf(publicKey),
    publicKey,
    sign,
    signReceipts: (receipts) => signReceipts(receipts, sign),
    open: (sealed) => openSealed(sealed, secret, curve),
    sessionKey: (peerPublicKey, salt) =>
      hkdf(sha256, curve.sharedSecret(secret, bytesOfHex(peerPublicKey, 33)), salt, SESSION, 32),
  }
}
