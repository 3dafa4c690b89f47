import {
  BrambleError,
  heartbeatAnswerSchema,
  LIMITS,
  parse,
  pendingJobsSchema,
  toBrambleError,
  workerResultAnswerSchema,
} from '@bramble/protocol'
import type { Item } from './holdings.ts'
import type { Connect, Link, LinkContext, LinkEnd } from './link.ts'
import { type SignedRequests, signedRequests } from './signed-requests.ts'

/** A third of the shortest lease that a network gives. */
const HEARTBEAT_MS = 5_000
const MAX_RESULTS = 256
const MAX_LEASES_A_POLL = 64

/** The same work by requests alone: a poll that waits for leases, heartbeats beside it, results as they come. */
export const pollLink: Connect = async (context, signal) => {
  const { options, clock } = context
  const over = new AbortController()
  const either = AbortSignal.any([signal, over.signal])
  const requests = signedRequests(options.url, options.identity, clock)
  const poll = new Poll(context, requests, either)
  try {
    await poll.open()
    await Promise.race([poll.takeLeases(), poll.beat(), poll.sendResults()])
    throw new BrambleError('connection_failed', { detail: 'the poll ended' })
  } catch (error) {
    return endOf(toBrambleError(error), signal)
  } finally {
    over.abort()
  }
}

/** Of these nothing changes by itself. */
const FINAL: readonly string[] = ['node_suspended', 'signature_invalid']

const endOf = (error: BrambleError, signal: AbortSignal): LinkEnd => {
  if (signal.aborted || FINAL.includes(error.code)) return { error, retryAfterMs: 'never' }
  return error.retryAfterMs === undefined ? { error } : { error, retryAfterMs: error.retryAfterMs }
}

class Poll implements Link {
  readonly #context: LinkContext
  readonly #requests: SignedRequests
  readonly #signal: AbortSignal
  readonly #node: string
  #queue: Item[] = []
  #wake: () => void = () => {}

  constructor(context: LinkContext, requests: SignedRequests, signal: AbortSignal) {
    this.#context = context
    this.#requests = requests
    this.#signal = signal
    this.#node = `nodes/${context.options.identity.id}`
  }

  async open(): Promise<void> {
    const { options, report, opened } = this.#context
    const { network, publicKey, keep } = await this.#heartbeat({ report: report() })
    options.pin?.check({ network, publicKey })
    const leaseMs = 3 * HEARTBEAT_MS
    opened(this, network, { type: 'welcome', session: 'poll', heartbeatMs: HEARTBEAT_MS, leaseMs, keep })
  }

  async takeLeases(): Promise<never> {
    for (;;) {
      if (this.#context.draining()) await this.#pause(HEARTBEAT_MS)
      else await this.#takeOnce()
    }
  }

  async beat(): Promise<never> {
    for (;;) {
      await this.#pause(HEARTBEAT_MS)
      const before = this.#context.holdings.refs()
      const { keep } = await this.#heartbeat({})
      const kept = new Set(keep.map(({ execution }) => execution))
      const lost = before.filter(({ execution }) => !kept.has(execution))
      for (const ref of lost) this.#context.holdings.stop(ref, 'lease_lost')
    }
  }

  async sendResults(): Promise<never> {
    for (;;) {
      if (this.#queue.length === 0)
        await new Promise<void>((resolve, reject) => {
          this.#wake = resolve
          this.#signal.addEventListener('abort', () => reject(this.#signal.reason), { once: true })
        })
      const batch = this.#queue.splice(0, MAX_RESULTS)
      const of = (kind: Item['kind']): unknown[] =>
        batch.filter((item) => item.kind === kind).map(({ text }) => JSON.parse(text))
      const answer = await this.#json('POST', 'worker/result', { commits: of('commit'), failures: of('failed') })
      this.#context.took({ type: 'ack', items: parse(workerResultAnswerSchema, answer).items }, [])
    }
  }

  results(items: readonly Item[]): void {
    this.#queue.push(...items)
    this.#wake()
  }

  /** A renewal says it. */
  started(refs: Parameters<Link['started']>[0]): void {
    for (const { execution, token } of refs)
      this.#json('POST', `worker/lease/${execution}/renew`, { token }).catch(() => {})
  }

  report(report: Parameters<Link['report']>[0]): void {
    this.#heartbeat({ report }).catch(() => {})
  }

  /** It asks for nothing more, and that is all. */
  drain(): void {}

  /** Nothing is asked of a node that cannot be called. */
  reply(): void {}

  async #takeOnce(): Promise<void> {
    const query = new URLSearchParams({ waitMs: String(LIMITS.maxLeaseWaitMs.value), max: String(MAX_LEASES_A_POLL) })
    const answer = await this.#json('GET', `${this.#node}/pending-jobs?${query}`)
    const { items } = parse(pendingJobsSchema, answer)
    if (items.length > 0) this.#context.took({ type: 'lease', items }, [])
  }

  async #heartbeat(more: { report?: Parameters<Link['report']>[0] }) {
    const running = this.#context.holdings.refs().slice(0, LIMITS.maxLeases.value)
    return parse(heartbeatAnswerSchema, await this.#json('POST', `${this.#node}/heartbeat`, { running, ...more }))
  }

  #json(method: 'GET' | 'POST', path: string, json?: unknown): Promise<unknown> {
    return this.#requests.json({ method, path, signal: this.#signal, ...(json !== undefined && { json }) })
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = this.#context.schedule(ms, () => {
        this.#signal.removeEventListener('abort', leave)
        resolve()
      })
      const leave = (): void => {
        cancel()
        reject(this.#signal.reason)
      }
      this.#signal.addEventListener('abort', leave, { once: true })
    })
  }
}
