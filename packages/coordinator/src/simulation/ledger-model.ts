import type { Document, LedgerEntry } from '../store/store.ts'

const MILLIONTHS = 1_000_000

/** The ledger as it was written, added up again. */
export class LedgerModel {
  readonly #fail: (message: string) => void
  readonly #balances = new Map<string, number>()
  readonly #entries: LedgerEntry[] = []
  readonly #paid = new Map<string, string>()
  readonly #paidOfJob = new Map<string, number>()
  #lastSeq = 0

  constructor(fail: (message: string) => void) {
    this.#fail = fail
  }

  balance(account: string): number {
    return this.#balances.get(account) ?? 0
  }

  /** Whole credits that owners had for a job. */
  paidFor(job: string): number {
    return (this.#paidOfJob.get(job) ?? 0) / MILLIONTHS
  }

  isPaid(execution: string): boolean {
    return this.#paid.has(execution)
  }

  add(entry: LedgerEntry): void {
    const { seq, kind, from, to, amount, job, execution } = entry
    if (seq <= this.#lastSeq) this.#fail(`entry ${seq} of the ledger comes after entry ${this.#lastSeq}`)
    this.#lastSeq = seq
    if (!Number.isSafeInteger(amount) || amount <= 0) this.#fail(`entry ${seq} of the ledger moves ${amount}`)
    this.#balances.set(from, this.balance(from) - amount)
    this.#balances.set(to, this.balance(to) + amount)
    this.#entries.push(entry)
    if (from !== 'issuer' && this.balance(from) < 0) this.#fail(`${from} has ${this.balance(from)} after entry ${seq}`)
    if (kind !== 'pay') return
    if (execution === undefined || job === undefined) {
      this.#fail(`entry ${seq} pays for nothing`)
      return
    }
    if (this.#paid.has(execution)) this.#fail(`${execution} is paid twice`)
    this.#paid.set(execution, to)
    this.#paidOfJob.set(job, (this.#paidOfJob.get(job) ?? 0) + amount)
  }

  /** An account as it was written is what its entries add up to. */
  check({ id, value }: Document): void {
    const { balance, logSeq } = value as { balance: number; logSeq: number }
    const sum = this.#entries
      .filter(({ seq }) => seq <= logSeq)
      .reduce((total, { from, to, amount }) => total + (to === id ? amount : 0) - (from === id ? amount : 0), 0)
    if (sum !== balance) this.#fail(`${id} was written with ${balance}, and its entries up to ${logSeq} make ${sum}`)
  }

  /** Nothing was made or lost. */
  checkSum(): void {
    const total = [...this.#balances.values()].reduce((sum, balance) => sum + balance, 0)
    if (total !== 0) this.#fail(`all accounts make ${total}, not 0`)
  }
}
