import { BrambleError, type JobId } from '@bramble/protocol'
import type { Journal } from '../store/journal.ts'
import type { LedgerEntry } from '../store/store.ts'

/** Of one credit: amounts are whole numbers of these. */
export const MILLIONTHS = 1_000_000

/**
 * Balances, and the double-entry ledger that they are the sum of: every entry takes from one account what it gives to another,
 * so that all of them add up to zero. `issuer` is where credits come from, and the only account below zero. What a job holds
 * is in `hold:<job>` from its submission to its end.
 */
export interface Accounts {
  balance(account: string): number
  /** Gives a tenant its first credits, once. */
  open(tenant: string, grantCredits: number): void
  grant(tenant: string, credits: number): void
  /** Throws `insufficient_credits`. */
  hold(tenant: string, job: JobId, credits: number): void
  /** What asking again costs, since the job's own credits are spent: the network bears it. */
  subsidise(job: JobId, credits: number): void
  pay(job: JobId, execution: string, owner: string, credits: number): void
  /** To whoever held it. */
  release(to: string, job: JobId): void
  /** Of accounts that changed since they were written. */
  changed(): { readonly id: string; readonly value: StoredAccount }[]
  load(id: string, value: StoredAccount): void
  /** An entry of the log, when it is replayed. */
  replay(entry: LedgerEntry): void
  /** What a job holds that was open when the writer began. */
  loadHold(job: JobId, credits: number): void
  totals(): { issued: number; held: number; earned: number }
}

export interface StoredAccount {
  readonly balance: number
  readonly logSeq: number
}

interface Account {
  balance: number
  logSeq: number
  dirty: boolean
}

const isHold = (account: string): boolean => account.startsWith('hold:')

export const openAccounts = (journal: Journal, now: () => number): Accounts => {
  const accounts = new Map<string, Account>()
  const account = (id: string): Account => {
    let found = accounts.get(id)
    if (!found) {
      found = { balance: 0, logSeq: 0, dirty: false }
      accounts.set(id, found)
    }
    return found
  }
  const move = (entry: Pick<LedgerEntry, 'from' | 'to' | 'amount'>, seq: number): void => {
    for (const [id, change] of [[entry.from, -entry.amount] as const, [entry.to, entry.amount] as const]) {
      const side = account(id)
      side.balance += change
      side.logSeq = seq
      side.dirty = true
      if (isHold(id) && side.balance === 0) accounts.delete(id)
    }
  }
  const post = (entry: Omit<LedgerEntry, 'seq' | 'at'>): void => {
    if (entry.amount === 0) return
    const at = now()
    const seq = journal.log({ t: 'l', ...entry, at })
    journal.add({ ledger: [{ ...entry, at, seq }] })
    move(entry, seq)
  }
  const balance = (id: string): number => accounts.get(id)?.balance ?? 0
  const grant = (tenant: string, credits: number): void =>
    post({ kind: 'grant', from: 'issuer', to: `tenant:${tenant}`, amount: credits * MILLIONTHS })

  return {
    balance,
    open: (tenant, grantCredits) => {
      if (!accounts.has(`tenant:${tenant}`)) grant(tenant, grantCredits)
    },
    grant,
    hold: (tenant, job, credits) => {
      const from = `tenant:${tenant}`
      const amount = credits * MILLIONTHS
      if (balance(from) < amount)
        throw new BrambleError('insufficient_credits', {
          detail: `the job holds ${credits} credits, and the tenant has ${Math.floor(balance(from) / MILLIONTHS)}`,
        })
      post({ kind: 'hold', from, to: `hold:${job}`, amount, job })
    },
    subsidise: (job, credits) =>
      post({ kind: 'grant', from: 'issuer', to: `hold:${job}`, amount: credits * MILLIONTHS, job }),
    pay: (job, execution, owner, credits) => {
      const amount = Math.min(credits * MILLIONTHS, balance(`hold:${job}`))
      post({
        kind: 'pay',
        from: `hold:${job}`,
        to: `owner:${owner}`,
        amount,
        job,
        execution,
      })
    },
    release: (to, job) => post({ kind: 'release', from: `hold:${job}`, to, amount: balance(`hold:${job}`), job }),
    changed: () => {
      const changed: { id: string; value: StoredAccount }[] = []
      for (const [id, side] of accounts) {
        if (!side.dirty) continue
        side.dirty = false
        if (!isHold(id)) changed.push({ id, value: { balance: side.balance, logSeq: side.logSeq } })
      }
      return changed
    },
    load: (id, { balance, logSeq }) => {
      accounts.set(id, { balance, logSeq, dirty: false })
    },
    replay: (entry) => {
      for (const [id, change] of [[entry.from, -entry.amount] as const, [entry.to, entry.amount] as const]) {
        if (isHold(id)) continue
        const side = account(id)
        if (side.logSeq >= entry.seq) continue
        side.balance += change
        side.logSeq = entry.seq
        side.dirty = true
      }
    },
    loadHold: (job, credits) => {
      if (credits > 0) accounts.set(`hold:${job}`, { balance: credits * MILLIONTHS, logSeq: 0, dirty: false })
    },
    totals: () => {
      const totals = { issued: -balance('issuer') / MILLIONTHS, held: 0, earned: 0 }
      for (const [id, side] of accounts) {
        if (isHold(id)) totals.held += side.balance / MILLIONTHS
        else if (id.startsWith('owner:')) totals.earned += side.balance / MILLIONTHS
      }
      return totals
    },
  }
}
