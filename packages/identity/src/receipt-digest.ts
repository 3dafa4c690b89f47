import { RECEIPT_DOMAIN, RECEIPT_FIELDS, type Receipt } from '@bramble/protocol'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import { writeHex } from './hex.ts'

/** Digests of EIP-712 (https://eips.ethereum.org/EIPS/eip-712), with all that is the same for every receipt made once. */

const keccakOf = (text: string): Uint8Array => keccak_256(utf8ToBytes(text))

const concat = (...parts: readonly Uint8Array[]): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0))
  let offset = 0
  for (const part of parts) {
    bytes.set(part, offset)
    offset += part.length
  }
  return bytes
}

const RECEIPT_TYPE = keccakOf(`Receipt(${RECEIPT_FIELDS.map(({ name, type }) => `${type} ${name}`).join(',')})`)
const BATCH_TYPE = keccakOf('ReceiptBatch(bytes32 root)')
const DOMAIN = keccak_256(
  concat(
    keccakOf('EIP712Domain(string name,string version)'),
    keccakOf(RECEIPT_DOMAIN.name),
    keccakOf(RECEIPT_DOMAIN.version),
  ),
)

/** `0x19 0x01`, the domain, and room for the hash of a struct. */
const envelope = concat(Uint8Array.of(0x19, 0x01), DOMAIN, new Uint8Array(32))
const digestOfStruct = (struct: Uint8Array): Uint8Array => {
  envelope.set(keccak_256(struct), 34)
  return keccak_256(envelope)
}

/** The struct of a receipt: its type and each field in 32 bytes. Written anew, all of it that is not zero, for each receipt. */
const struct = concat(RECEIPT_TYPE, new Uint8Array(32 * RECEIPT_FIELDS.length))
const numbers = new DataView(struct.buffer)

const writeField = (offset: number, type: (typeof RECEIPT_FIELDS)[number]['type'], value: string | number): void => {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0) throw new TypeError(`${value} is not a count`)
    numbers.setUint32(offset + 24, Math.floor(value / 0x1_0000_0000))
    numbers.setUint32(offset + 28, value % 0x1_0000_0000)
  } else if (type === 'string') struct.set(keccakOf(value), offset)
  else if (type === 'address') writeHex(struct, offset + 12, value, 20)
  else writeHex(struct, offset, value, 32)
}

/** What the signature of a lone receipt is of. Throws a `TypeError` for one that its schema refuses. About 25 us. */
export const receiptDigest = (receipt: Receipt): Uint8Array => {
  let offset = 0
  for (const { name, type } of RECEIPT_FIELDS) {
    offset += 32
    writeField(offset, type, receipt[name])
  }
  return digestOfStruct(struct)
}

/** What the signature of several receipts is of: `ReceiptBatch(bytes32 root)` in the same domain. */
export const batchDigest = (root: Uint8Array): Uint8Array => digestOfStruct(concat(BATCH_TYPE, root))
