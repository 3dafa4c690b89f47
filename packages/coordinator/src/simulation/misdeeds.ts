import type { Commit, Lease } from '@bramble/protocol'
import { pick, streamOf } from './scenario.ts'
import { resultOf, signReceipt } from './signatures.ts'
import type { SimulatedNode } from './simulated-node.ts'

/** What a node says came out. Commands that begin with `dice` give something else everywhere. */
export const answerOf = (node: SimulatedNode, { spec: { command }, job }: Lease): string => {
  const { temper, random, index, world } = node
  const text = String(command)
  if (text.startsWith('dice')) return `dice ${index} ${text}`
  /** The same for all who are in it together. */
  const lieTogether = streamOf(world.scenario.seed, `lie about ${job}`)() < 0.5
  if (temper === 'liar' && random() < 0.4) return `wrong by ${index}: ${text}`
  if (temper === 'colluder' && lieTogether) return `wrong together: ${text}`
  if (temper === 'patient' && node.agreed > world.config.verification.establishedAgreements && lieTogether)
    return `wrong together: ${text}`
  return `right: ${text}`
}

export const mayRun = ({ temper, random }: SimulatedNode): boolean => random() >= (temper === 'broken' ? 0.7 : 0.02)

/** A commit that is not what it should be, in one of many ways; sometimes one that is. */
export const forge = (node: SimulatedNode, honest: Commit): Commit => {
  const { random, world, key } = node
  const other = world.gossip.commitOfAnother(node.id, random)
  const fields = honest.receipt.receipt
  const ways: (() => Commit)[] = [
    () => honest,
    () => honest,
    () => ({ ...honest, receipt: { ...honest.receipt, signature: `0x${'11'.repeat(65)}` } }),
    // Its own hash, over a result that is not of it.
    () => ({ ...honest, result: resultOf(`${fields.job} altered`).result }),
    () => ({ ...honest, receipt: signReceipt(key, { ...fields, resultHash: `0x${'00'.repeat(32)}` }) }),
    () => ({ ...honest, token: honest.token + 1, receipt: signReceipt(key, { ...fields, token: honest.token + 1 }) }),
    () => ({ ...honest, receipt: signReceipt(key, { ...fields, network: `0x${'43'.repeat(32)}` }) }),
  ]
  if (other) {
    // Somebody else's receipt for its own lease; its own for somebody else's lease; all of somebody else's.
    ways.push(
      () => ({ ...honest, receipt: other.receipt, result: other.result }),
      () => ({
        ...honest,
        receipt: signReceipt(key, { ...other.receipt.receipt, node: node.id }),
        result: other.result,
      }),
      () => ({
        ...other,
        receipt: signReceipt(key, { ...other.receipt.receipt, node: node.id }),
      }),
      () => other,
    )
  }
  return pick(random, ways)()
}
