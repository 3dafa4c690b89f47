import {
  isPointCompressed,
  pointAdd,
  pointFromScalar,
  pointMultiply,
  privateSub,
  recover,
  signRecoverable,
} from 'tiny-secp256k1'
import type { Curve } from '../identity.ts'
import { generateSecretKey } from '../keys.ts'

const points = (secretKey: Uint8Array, publicKey: Uint8Array): Uint8Array => {
  // The multiplication's time depends on its scalar. Two that differ each time, and whose sum is the key, tell nothing of it.
  const part = generateSecretKey()
  const rest = privateSub(secretKey, part)
  if (rest === null) return points(secretKey, publicKey)
  const [left, right] = [pointMultiply(publicKey, part), pointMultiply(publicKey, rest)]
  const sum = left && right && pointAdd(left, right, true)
  if (!sum) throw new TypeError('the key and the point have no product')
  return sum
}

/** The curve as libsecp256k1 in WebAssembly: 0.18 ms to verify, 0.08 ms to sign. */
export const wasmCurve = (): Curve => {
  const curve: Curve = {
    sign: (digest, secretKey) => {
      const { signature, recoveryId } = signRecoverable(digest, secretKey)
      const bytes = new Uint8Array(65)
      bytes.set(signature)
      bytes[64] = 27 + recoveryId
      return bytes
    },

    recover: (digest, signature) => {
      const recovery = (signature[64] ?? 0) - 27
      if (digest.length !== 32 || signature.length !== 65 || (recovery !== 0 && recovery !== 1)) return undefined
      if (!isLow(signature)) return undefined
      try {
        return recover(digest, signature.subarray(0, 64), recovery, true) ?? undefined
      } catch {
        return undefined
      }
    },

    verify: (digest, signature, publicKey) => {
      const signer = curve.recover(digest, signature)
      return signer !== undefined && Buffer.compare(signer, publicKey) === 0
    },

    publicKeyOf: (secretKey) => {
      const key = pointFromScalar(secretKey, true)
      if (key === null) throw new TypeError('the secret key has no public key')
      return key
    },

    sharedSecret: (secretKey, publicKey) => {
      if (!isPointCompressed(publicKey)) throw new TypeError('the public key is no point of the curve')
      return points(secretKey, publicKey).slice(1)
    },
  }
  return curve
}

/** Half the order of the curve: of s and its negative, the lower one signs. */
const HALF_ORDER = Buffer.from('7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0', 'hex')
const isLow = (signature: Uint8Array): boolean => Buffer.compare(signature.subarray(32, 64), HALF_ORDER) <= 0
