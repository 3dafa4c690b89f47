import { BrambleError, type Sealed } from '@bramble/protocol'
import { hkdf } from '@noble/hashes/hkdf.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import { bytesOfBase64, toBase64 } from './base64.ts'
import { bytesOfHex } from './hex.ts'
import type { Curve } from './identity.ts'
import { generateSecretKey } from './keys.ts'
import { nobleCurve } from './noble-curve.ts'

/**
 * Bytes for the holder of one key: a key made for this once, ECDH with the receiver's, HKDF-SHA-256 over both public keys,
 * AES-256-GCM (by WebCrypto). The sender cannot open it again, and is not known by it.
 */

const PURPOSE = utf8ToBytes('bramble/seal/1')
const NONCE_BYTES = 12
const TAG_BYTES = 16

const cipherKey = async (
  shared: Uint8Array,
  ephemeral: Uint8Array,
  receiver: Uint8Array,
  use: 'encrypt' | 'decrypt',
): Promise<CryptoKey> => {
  const salt = new Uint8Array(66)
  salt.set(ephemeral)
  salt.set(receiver, 33)
  const key = Uint8Array.from(hkdf(sha256, shared, salt, PURPOSE, 32))
  return await crypto.subtle.importKey('raw', key, 'AES-GCM', false, [use])
}

/** Seals bytes to a compressed public key in `0x` hex. Throws for what is no key. */
export const seal = async (publicKey: string, bytes: Uint8Array, curve: Curve = nobleCurve): Promise<Sealed> => {
  const receiver = bytesOfHex(publicKey, 33)
  const secret = generateSecretKey()
  const ephemeral = curve.publicKeyOf(secret)
  const key = await cipherKey(curve.sharedSecret(secret, receiver), ephemeral, receiver, 'encrypt')
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES))
  const text = new Uint8Array(await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, key, Uint8Array.from(bytes)))
  const ciphertext = new Uint8Array(NONCE_BYTES + text.length)
  ciphertext.set(iv)
  ciphertext.set(text, NONCE_BYTES)
  return { ephemeralKey: toBase64(ephemeral), ciphertext: toBase64(ciphertext) }
}

/** Opens what was sealed to that key. Throws `signature_invalid` where it was changed, or is for another. */
export const openSealed = async (sealed: Sealed, secretKey: Uint8Array, curve: Curve): Promise<Uint8Array> => {
  try {
    const ephemeral = bytesOfBase64(sealed.ephemeralKey)
    const bytes = bytesOfBase64(sealed.ciphertext)
    if (bytes.length < NONCE_BYTES + TAG_BYTES) throw new TypeError('the ciphertext is too short')
    const shared = curve.sharedSecret(secretKey, ephemeral)
    const key = await cipherKey(shared, ephemeral, curve.publicKeyOf(secretKey), 'decrypt')
    const iv = bytes.subarray(0, NONCE_BYTES)
    return new Uint8Array(await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, key, bytes.subarray(NONCE_BYTES)))
  } catch (cause) {
    throw new BrambleError('signature_invalid', {
      detail: 'the sealed bytes were changed, or are sealed to another key',
      cause,
    })
  }
}
