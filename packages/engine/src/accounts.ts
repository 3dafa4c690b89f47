import { BrambleError, type Quota } from '@bramble/protocol'

/** What an execution or an instance claims of the node, and on whose behalf. */
export interface Claim {
  readonly tenant: string
  readonly keyId: string
  readonly cpus: number
  readonly memoryMb: number
  readonly quota: Quota | undefined
  /** An instance: it does not count toward the executions that may run at once, and ends nobody knows when. */
  readonly lasting?: boolean
}

/** What runs for each key now. */
export interface Accounts {
  /** Whether the key's quota allows the claim beside what runs for it. */
  allows(claim: Claim): boolean
  charge(claim: Claim): void
  refund(claim: Claim): void
}

export const createAccounts = (): Accounts => {
  const accounts = new Map<string, { sandboxes: number; cpus: number; memoryMb: number }>()
  const name = (claim: Claim): string => `${claim.tenant}\n${claim.keyId}`
  return {
    allows(claim) {
      const { quota } = claim
      if (quota === undefined) return true
      const used = accounts.get(name(claim))
      if (used === undefined) return true
      return (
        used.sandboxes + 1 <= (quota.concurrentSandboxes ?? Number.POSITIVE_INFINITY) &&
        // Sums of fractions: a millionth of a processor is no excess.
        used.cpus + claim.cpus <= (quota.cpus ?? Number.POSITIVE_INFINITY) + 1e-6 &&
        used.memoryMb + claim.memoryMb <= (quota.memoryMb ?? Number.POSITIVE_INFINITY)
      )
    },
    charge(claim) {
      const used = accounts.get(name(claim))
      if (used === undefined) {
        accounts.set(name(claim), { sandboxes: 1, cpus: claim.cpus, memoryMb: claim.memoryMb })
        return
      }
      used.sandboxes++
      used.cpus += claim.cpus
      used.memoryMb += claim.memoryMb
    },
    refund(claim) {
      const used = accounts.get(name(claim))
      if (used === undefined) return
      used.sandboxes--
      used.cpus -= claim.cpus
      used.memoryMb -= claim.memoryMb
      if (used.sandboxes === 0) accounts.delete(name(claim))
    },
  }
}

/** Throws `quota_exceeded` for a claim that no amount of waiting would let in. */
export const assertWithinQuota = ({ quota, cpus, memoryMb }: Claim): void => {
  if (quota?.cpus !== undefined && cpus > quota.cpus)
    throw new BrambleError('quota_exceeded', { detail: `it asks for ${cpus} cpus, the key's quota is ${quota.cpus}` })
  if (quota?.memoryMb !== undefined && memoryMb > quota.memoryMb)
    throw new BrambleError('quota_exceeded', {
      detail: `it asks for ${memoryMb} MiB of memory, the key's quota is ${quota.memoryMb} MiB`,
    })
}
