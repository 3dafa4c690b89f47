import { keccak_256 } from '@noble/hashes/sha3.js'

/**
 * A Merkle tree over digests. The parent of two is the Keccak-256 of both, the smaller one first, so that a proof is a list
 * of siblings and needs no directions; one that is left over goes up as it is. Leaves are EIP-712 digests, hashed from 66
 * bytes, and parents are hashed from 64: no parent passes for a leaf. Contracts check such proofs with common libraries.
 */

const isLess = (left: Uint8Array, right: Uint8Array): boolean => {
  for (let index = 0; index < 32; index += 1) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

const parentOf = (left: Uint8Array, right: Uint8Array): Uint8Array => {
  const pair = new Uint8Array(64)
  const ordered = isLess(left, right)
  pair.set(ordered ? left : right)
  pair.set(ordered ? right : left, 32)
  return keccak_256(pair)
}

export interface MerkleTree {
  readonly root: Uint8Array
  /** Of each leaf, in their order: its siblings from the bottom up. */
  readonly proofs: readonly (readonly Uint8Array[])[]
}

/** At least one leaf. */
export const merkleTree = (leaves: readonly Uint8Array[]): MerkleTree => {
  const proofs: Uint8Array[][] = leaves.map(() => [])
  let level = [...leaves]
  for (let height = 0; level.length > 1; height += 1) {
    for (const [index, proof] of proofs.entries()) {
      const sibling = level[(index >> height) ^ 1]
      if (sibling !== undefined) proof.push(sibling)
    }
    level = Array.from({ length: Math.ceil(level.length / 2) }, (_, index) => {
      const [left, right] = [level[2 * index], level[2 * index + 1]]
      if (left === undefined) throw new TypeError('a level of the tree has a hole')
      return right === undefined ? left : parentOf(left, right)
    })
  }
  const [root] = level
  if (root === undefined) throw new TypeError('a tree has at least one leaf')
  return { root, proofs }
}

/** Where a proof leads from a leaf. */
export const rootOf = (leaf: Uint8Array, proof: readonly Uint8Array[]): Uint8Array => proof.reduce(parentOf, leaf)
