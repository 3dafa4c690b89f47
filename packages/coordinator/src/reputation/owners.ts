/**
 * Who may add how many nodes. Whoever is convicted and comes back under a new name would begin with a clean record, so after a
 * strike an owner waits before it may add another node, twice as long with each strike. The same holds for whatever else new
 * nodes share, such as a subnet where anyone may join.
 */
export interface OwnerRecord {
  /** Nodes that it added, ever. */
  readonly nodes: number
  readonly addedAt?: number
  /** Nodes of it that were convicted, ever. */
  readonly strikes: number
  readonly struckAt?: number
}

export interface OwnerLimits {
  readonly maxNodes: number
  /** After the first strike. */
  readonly coolDownMs?: number
  readonly maxCoolDownMs?: number
}

export type MayRegister =
  /** The record with one more node. */
  | { readonly allowed: true; readonly owner: OwnerRecord }
  | { readonly allowed: false; readonly message: string; readonly retryAfterMs?: number }

const HOUR_MS = 3_600_000
const NOBODY: OwnerRecord = { nodes: 0, strikes: 0 }

const coolDownOf = (
  strikes: number,
  { coolDownMs = HOUR_MS, maxCoolDownMs = 30 * 24 * HOUR_MS }: OwnerLimits,
): number => (strikes === 0 ? 0 : Math.min(coolDownMs * 2 ** Math.min(strikes - 1, 32), maxCoolDownMs))

/** Whether an owner may add a node at `now`, in milliseconds. */
export const mayRegister = (owner: OwnerRecord | undefined, now: number, limits: OwnerLimits): MayRegister => {
  const { nodes, strikes, addedAt, struckAt } = owner ?? NOBODY
  if (nodes >= limits.maxNodes) return { allowed: false, message: `its owner has ${nodes} nodes, and may have no more` }
  const since = Math.max(addedAt ?? Number.NEGATIVE_INFINITY, struckAt ?? Number.NEGATIVE_INFINITY)
  const retryAfterMs = strikes === 0 ? 0 : since + coolDownOf(strikes, limits) - now
  if (retryAfterMs > 0) {
    const minutes = Math.ceil(retryAfterMs / 60_000)
    const message = `${strikes} nodes of its owner gave wrong results: it may add another one in ${minutes} minutes`
    return { allowed: false, message, retryAfterMs }
  }
  return { allowed: true, owner: { ...(owner ?? NOBODY), nodes: nodes + 1, addedAt: now } }
}

/** A node of that owner was convicted. */
export const withStrike = (owner: OwnerRecord | undefined, now: number): OwnerRecord => ({
  ...(owner ?? NOBODY),
  strikes: (owner ?? NOBODY).strikes + 1,
  struckAt: now,
})
