import { RECEIPT_FIELDS, type Receipt, type SignedReceipt } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Curve } from './identity.ts'
import {
  bytesOfHex,
  createIdentity,
  generateSecretKey,
  nobleCurve,
  nodeIdOf,
  seal,
  toHex,
  verifyReceipts,
  verifySignature,
} from './index.ts'
import { wasmCurve } from './node/index.ts'

const curves: readonly (readonly [string, Curve])[] = [
  ['noble', nobleCurve],
  ['wasm', wasmCurve()],
]
/** Of the curve (SEC 2, secp256k1): s and its negative modulo this sign the same. */
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n

const word = (byte: string) => `0x${byte.repeat(32)}`
const receiptOf = (node: Receipt['node'], change: Partial<Receipt> = {}): Receipt => ({
  network: word('0a'),
  job: 'job_1',
  execution: 'exe_1',
  token: 3,
  node,
  inputHash: word('0b'),
  resultHash: word('0c'),
  cpuMs: 10,
  peakMemoryBytes: 20,
  startedAtMs: 30,
  finishedAtMs: 40,
  ...change,
})

const only = (signed: SignedReceipt[]): SignedReceipt => {
  const [first] = signed
  if (first === undefined) throw new Error('nothing was signed')
  return first
}

const verifyReceipt = (signed: SignedReceipt, publicKey: string, curve: Curve): boolean =>
  verifyReceipts([{ signed, publicKey }], curve)[0] === true

/** The other form of a signature: -s, with the recovery id that goes with it. */
const otherForm = (signature: string): string => {
  const s = ORDER - BigInt(`0x${signature.slice(66, 130)}`)
  const recovery = signature.endsWith('1b') ? '1c' : '1b'
  return `${signature.slice(0, 66)}${s.toString(16).padStart(64, '0')}${recovery}`
}

test('both curves are one: keys, signatures, secrets', () => {
  const wasm = wasmCurve()
  for (let round = 0; round < 20; round += 1) {
    const [secret, other, digest] = [generateSecretKey(), generateSecretKey(), generateSecretKey()]
    const publicKey = nobleCurve.publicKeyOf(secret)
    expect(wasm.publicKeyOf(secret)).toEqual(publicKey)
    const signature = nobleCurve.sign(digest, secret)
    expect(wasm.sign(digest, secret)).toEqual(signature)
    expect(wasm.recover(digest, signature)).toEqual(publicKey)
    expect(nobleCurve.recover(digest, signature)).toEqual(publicKey)
    const shared = nobleCurve.sharedSecret(secret, nobleCurve.publicKeyOf(other))
    expect(wasm.sharedSecret(other, publicKey)).toEqual(shared)
  }
})

describe.each(curves)('receipts by %s', (_name, curve) => {
  const identity = createIdentity(generateSecretKey(), curve)
  const stranger = createIdentity(generateSecretKey(), curve)
  const receipt = receiptOf(identity.id)
  const signed = only(identity.signReceipts([receipt]))

  test('any field that was changed is found', () => {
    expect(verifyReceipt(signed, identity.publicKey, curve)).toBe(true)
    for (const { name, type } of RECEIPT_FIELDS) {
      const value = type === 'uint64' ? 99 : type === 'bytes32' ? word('ff') : type === 'string' ? 'x' : stranger.id
      const changed = { ...signed, receipt: { ...receipt, [name]: value } }
      expect(verifyReceipt(changed, identity.publicKey, curve), name).toBe(false)
    }
  })

  test('text does not move from one field to the next', () => {
    const moved = { ...receipt, job: 'job_1e', execution: 'xe_1' }
    expect(verifyReceipt({ ...signed, receipt: moved }, identity.publicKey, curve)).toBe(false)
  })

  test('a receipt is of the key whose node it names, whoever signed it', () => {
    const claimed = only(stranger.signReceipts([receipt]))
    expect(verifyReceipt(claimed, stranger.publicKey, curve)).toBe(false)
    expect(verifyReceipt(claimed, identity.publicKey, curve)).toBe(false)
  })

  test('a signature has one form', () => {
    const high = otherForm(signed.signature)
    const flipped = `${signed.signature.slice(0, 130)}${signed.signature.endsWith('1b') ? '1c' : '1b'}`
    const zero = `${signed.signature.slice(0, 130)}0${signed.signature.endsWith('1b') ? '0' : '1'}`
    for (const signature of [high, flipped, zero, `0x${'00'.repeat(65)}`, `0x${'ff'.repeat(65)}`])
      expect(verifyReceipt({ ...signed, signature }, identity.publicKey, curve), signature).toBe(false)
  })

  test('what is malformed is no receipt, and throws nothing', () => {
    for (const signature of [
      '',
      '0x',
      signed.signature.slice(0, -2),
      `${signed.signature}00`,
      signed.signature.toUpperCase(),
    ])
      expect(verifyReceipt({ ...signed, signature }, identity.publicKey, curve)).toBe(false)
    for (const publicKey of ['', identity.publicKey.slice(2), `0x04${'11'.repeat(64)}`, `0x02${'ff'.repeat(32)}`])
      expect(verifyReceipt(signed, publicKey, curve)).toBe(false)
    for (const change of [{ token: -1 }, { token: 1.5 }, { cpuMs: 2 ** 53 }, { inputHash: '0x' }])
      expect(verifyReceipt({ ...signed, receipt: { ...receipt, ...change } }, identity.publicKey, curve)).toBe(false)
  })

  test('a batch is one signature, and each receipt has its place in it', () => {
    const several = identity.signReceipts(Array.from({ length: 13 }, (_, token) => receiptOf(identity.id, { token })))
    expect(new Set(several.map(({ signature }) => signature)).size).toBe(1)
    let checked = 0
    const counting: Curve = {
      ...curve,
      verify: (...given) => {
        checked += 1
        return curve.verify(...given)
      },
    }
    const items = several.map((each) => ({ signed: each, publicKey: identity.publicKey }))
    expect(verifyReceipts(items, counting)).toEqual(several.map(() => true))
    expect(checked).toBe(1)
    for (const each of several) {
      const { proof = [], ...rest } = each
      const wrong = [[], proof.slice(1), [...proof, word('00')], proof.with(0, word('00'))]
      for (const other of wrong) expect(verifyReceipt({ ...rest, proof: other }, identity.publicKey, curve)).toBe(false)
      expect(verifyReceipt(rest, identity.publicKey, curve)).toBe(false)
    }
  })

  test('a proof longer than any tree is refused before it is hashed', () => {
    const proof = Array.from({ length: 100_000 }, () => 'not even hex')
    expect(verifyReceipt({ ...signed, proof }, identity.publicKey, curve)).toBe(false)
  })

  test('one bad receipt does not spoil the others, nor do they carry it', () => {
    const [first, second] = identity.signReceipts([
      receiptOf(identity.id, { token: 1 }),
      receiptOf(identity.id, { token: 2 }),
    ])
    if (first === undefined || second === undefined) throw new Error('two were signed')
    const forged = { ...second, receipt: { ...second.receipt, resultHash: word('dd') } }
    const items = [first, forged, second].map((each) => ({ signed: each, publicKey: identity.publicKey }))
    expect(verifyReceipts(items, curve)).toEqual([true, false, true])
  })

  test('a signature for one purpose is none for another', () => {
    const digest = generateSecretKey()
    const signature = identity.sign(digest)
    expect(verifySignature(digest, signature, identity.publicKey, curve)).toBe(true)
    expect(verifySignature(generateSecretKey(), signature, identity.publicKey, curve)).toBe(false)
    expect(verifySignature(digest, signature, stranger.publicKey, curve)).toBe(false)
    expect(verifySignature(digest.subarray(1), signature, identity.publicKey, curve)).toBe(false)
  })

  test('what is sealed is opened by its key alone, and only as it was', async () => {
    for (const bytes of [new Uint8Array(0), crypto.getRandomValues(new Uint8Array(50_000))]) {
      const sealed = await seal(identity.publicKey, bytes, curve)
      expect(await identity.open(sealed)).toEqual(bytes)
      await expect(stranger.open(sealed)).rejects.toMatchObject({ code: 'signature_invalid' })
      const text = atob(sealed.ciphertext)
      for (const index of [0, 11, 12, text.length - 1]) {
        const changed = `${text.slice(0, index)}${String.fromCharCode(text.charCodeAt(index) ^ 1)}${text.slice(index + 1)}`
        await expect(identity.open({ ...sealed, ciphertext: btoa(changed) })).rejects.toMatchObject({
          code: 'signature_invalid',
        })
      }
      for (const ephemeralKey of ['', '!', btoa('\u0002'.repeat(33)), btoa(`\u0002${'\u00ff'.repeat(32)}`)])
        await expect(identity.open({ ...sealed, ephemeralKey })).rejects.toMatchObject({ code: 'signature_invalid' })
      await expect(identity.open({ ...sealed, ciphertext: 'AAAA' })).rejects.toMatchObject({
        code: 'signature_invalid',
      })
    }
  })

  test('what is no point or no key is refused', async () => {
    const notOnCurve = `0x02${'00'.repeat(31)}05`
    expect(() => identity.sessionKey(notOnCurve, new Uint8Array(32))).toThrow()
    expect(() => identity.sessionKey('0x', new Uint8Array(32))).toThrow(TypeError)
    await expect(seal(notOnCurve, new Uint8Array(1), curve)).rejects.toThrow()
    expect(() => createIdentity(new Uint8Array(32), curve)).toThrow()
    expect(() => createIdentity(bytesOfHex(`0x${ORDER.toString(16)}`, 32), curve)).toThrow()
    expect(() => createIdentity(new Uint8Array(31), curve)).toThrow(TypeError)
    expect(() => nodeIdOf(notOnCurve)).toThrow()
  })
})

test('hex has one form', () => {
  expect(toHex(bytesOfHex('0x00ff10', 3))).toBe('0x00ff10')
  for (const text of ['0x00FF10', '00ff1000', '0x00ff1', '0x00ff1g', '0X00ff10'])
    expect(() => bytesOfHex(text, 3)).toThrow(TypeError)
})
