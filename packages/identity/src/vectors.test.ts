import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { canonicalJson, executionSpecSchema, inputHash, resultHash } from '@bramble/protocol'
import { hashStruct, hashTypedData, recoverAddress } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { describe, expect, test } from 'vitest'
import {
  batchDigest,
  bytesOfHex,
  createIdentity,
  frameCodec,
  helloDigest,
  nobleCurve,
  readRouteToken,
  receiptDigest,
  requestDigest,
  toHex,
  verifyReceipts,
  verifySignature,
} from './index.ts'
import { wasmCurve } from './node/index.ts'

/** The vectors hold for this implementation by either curve, and for viem where it does the same thing. */

const read = (name: string) => JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), 'utf8'))
const { receipts, hashes, messages } = {
  receipts: read('receipts'),
  hashes: read('hashes'),
  messages: read('messages'),
}
const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')
const curves = { noble: nobleCurve, wasm: wasmCurve() }

const typed = (receipt: Record<string, unknown>) => ({
  domain: receipts.domain,
  types: { Receipt: receipts.fields },
  primaryType: 'Receipt' as const,
  message: Object.fromEntries(
    Object.entries(receipt).map(([name, value]) => [name, typeof value === 'number' ? BigInt(value) : value]),
  ),
})

test('viem gives the same digests of receipts and batches', () => {
  for (const { digest, signed } of receipts.single) {
    expect(toHex(receiptDigest(signed.receipt))).toBe(digest)
    expect(hashTypedData(typed(signed.receipt))).toBe(digest)
  }
  const { root, digest } = receipts.batchDigest
  expect(toHex(batchDigest(bytesOfHex(root, 32)))).toBe(digest)
  const types = { ReceiptBatch: [{ name: 'root', type: 'bytes32' }] }
  expect(hashTypedData({ domain: receipts.domain, types, primaryType: 'ReceiptBatch', message: { root } })).toBe(digest)
  expect(hashStruct({ types, primaryType: 'ReceiptBatch', data: { root } })).not.toBe(digest)
})

test('viem gives the same names and signatures', async () => {
  for (const { secretKey, node } of receipts.keys)
    expect(privateKeyToAccount(secretKey).address.toLowerCase()).toBe(node)
  for (const { key, digest, signed } of receipts.single) {
    const { secretKey, node } = receipts.keys[key]
    expect(await privateKeyToAccount(secretKey).signTypedData(typed(signed.receipt))).toBe(signed.signature)
    expect((await recoverAddress({ hash: digest, signature: signed.signature })).toLowerCase()).toBe(node)
  }
})

describe.each(Object.entries(curves))('by %s', (_name, curve) => {
  const identities = receipts.keys.map(({ secretKey }: { secretKey: string }) =>
    createIdentity(bytesOfHex(secretKey, 32), curve),
  )

  test('keys and receipts', () => {
    for (const [index, { publicKey, node }] of receipts.keys.entries())
      expect(identities[index]).toMatchObject({ id: node, publicKey })
    for (const { key, signed } of receipts.single) {
      expect(identities[key].signReceipts([signed.receipt])).toEqual([signed])
      expect(verifyReceipts([{ signed, publicKey: receipts.keys[key].publicKey }], curve)).toEqual([true])
    }
    for (const { key, signed } of receipts.batches) {
      const plain = signed.map(({ receipt }: { receipt: unknown }) => receipt)
      expect(identities[key].signReceipts(plain)).toEqual(signed)
      const { publicKey } = receipts.keys[key]
      const items = signed.map((each: never) => ({ signed: each, publicKey }))
      expect(verifyReceipts(items, curve)).toEqual(signed.map(() => true))
    }
  })

  test('messages', async () => {
    const { hello, request, route, session, sealed } = messages
    expect(toHex(helloDigest(hello.challenge, hello.hello))).toBe(hello.digest)
    expect(toHex(requestDigest(request.request))).toBe(request.digest)
    for (const { key, digest, signature } of [hello, request])
      expect(verifySignature(bytesOfHex(digest, 32), signature, receipts.keys[key].publicKey, curve)).toBe(true)
    const { publicKey } = receipts.keys[route.key]
    expect(readRouteToken(route.token, publicKey, curve, route.claims.expiresAtMs - 1)).toEqual(route.claims)

    const key = identities[session.key].sessionKey(receipts.keys[session.peer].publicKey, bytesOfHex(session.salt, 32))
    expect(toHex(key)).toBe(session.sessionKey)
    const [worker, coordinator] = [frameCodec({ key, side: 'worker' }), frameCodec({ key, side: 'coordinator' })]
    for (const frame of session.frames) {
      expect(worker.seal(frame.text)).toBe(frame.worker)
      expect(coordinator.seal(frame.text)).toBe(frame.coordinator)
    }
    expect(new TextDecoder().decode(await identities[sealed.key].open(sealed.sealed))).toBe(sealed.text)
  })
})

test('hashes', () => {
  for (const { value, json, sha256: digest } of hashes.canonical) {
    expect(canonicalJson(value)).toBe(json)
    expect(sha256(json)).toBe(digest)
  }
  for (const { spec, imageDigest, inputHash: hash } of hashes.inputs)
    expect(inputHash(executionSpecSchema.parse(spec), imageDigest, sha256)).toBe(hash)
  for (const { digests, resultHash: hash } of hashes.results) expect(resultHash(digests, sha256)).toBe(hash)
})
