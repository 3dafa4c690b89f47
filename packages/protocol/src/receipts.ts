import { z } from 'zod'

/**
 * What a node signs of an execution. Receipts are EIP-712 typed data (https://eips.ethereum.org/EIPS/eip-712) under a
 * secp256k1 key, so that the coordinator, a client and a contract verify the same signature. A node that ends several
 * executions at once may sign the root of a Merkle tree over their hashes instead, with a proof for each.
 */

/** The address of a key: the last 20 bytes of the Keccak-256 of its public key, in lower-case hex. It names a node. */
export const nodeIdSchema = z
  .string()
  .regex(/^0x[0-9a-f]{40}$/, 'is not a node id (0x and 40 lower-case hex digits)')
  .brand<'networkNode'>()
export type NodeId = z.infer<typeof nodeIdSchema>

const bytes32 = z.string().regex(/^0x[0-9a-f]{64}$/, 'is not 0x and 64 lower-case hex digits')
export const bytes32Schema = bytes32
/** r, s and the recovery id plus 27, as Ethereum writes them: 65 bytes. */
export const signatureSchema = z.string().regex(/^0x[0-9a-f]{130}$/, 'is not a signature of 65 bytes in hex')
/** A public key, compressed: 33 bytes. */
export const publicKeySchema = z.string().regex(/^0x0[23][0-9a-f]{64}$/, 'is not a compressed public key in hex')

const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)

export const receiptSchema = z.strictObject({
  /** The network it was for: receipts of one are worth nothing in another. */
  network: bytes32,
  job: z.string().max(64),
  execution: z.string().max(64),
  /** The fencing token of the lease it was done under. */
  token: count,
  node: nodeIdSchema,
  /** Hash of what was run, and of what came out (`inputHash`, `resultHash`), with `0x` before them. */
  inputHash: bytes32,
  resultHash: bytes32,
  cpuMs: count,
  peakMemoryBytes: count,
  /** By the node's clock, in milliseconds since 1970. */
  startedAtMs: count,
  finishedAtMs: count,
})
export type Receipt = z.infer<typeof receiptSchema>

/** The fields of a receipt with their Solidity types, in the order of the EIP-712 struct. */
export const RECEIPT_FIELDS = [
  { name: 'network', type: 'bytes32' },
  { name: 'job', type: 'string' },
  { name: 'execution', type: 'string' },
  { name: 'token', type: 'uint64' },
  { name: 'node', type: 'address' },
  { name: 'inputHash', type: 'bytes32' },
  { name: 'resultHash', type: 'bytes32' },
  { name: 'cpuMs', type: 'uint64' },
  { name: 'peakMemoryBytes', type: 'uint64' },
  { name: 'startedAtMs', type: 'uint64' },
  { name: 'finishedAtMs', type: 'uint64' },
] as const satisfies readonly { name: keyof Receipt; type: string }[]

/** The EIP-712 domain of receipts. */
export const RECEIPT_DOMAIN = { name: 'Bramble', version: '1' } as const

/**
 * A receipt with its signature. `proof` absent: the signature is of the receipt's own EIP-712 digest. Present: it is of
 * `ReceiptBatch(bytes32 root)`, and the proof leads from the receipt's digest to that root; pairs are hashed in sorted
 * order, so it needs no directions.
 */
export const signedReceiptSchema = z.strictObject({
  receipt: receiptSchema,
  proof: z.array(bytes32).max(16).optional(),
  signature: signatureSchema,
})
export type SignedReceipt = z.infer<typeof signedReceiptSchema>
