import { BrambleError } from '@bramble/protocol'

/** A finished answer: what is kept and given again. */
export interface Answer {
  readonly status: number
  /** JSON, or nothing where the status has no body. */
  readonly text?: string
}

export interface IdempotencyRequest {
  readonly tenant: string
  /** Method and path: one key may serve different routes. */
  readonly route: string
  readonly key: string
  /** Digest of the body; another one under the same key is refused. */
  readonly fingerprint: string
}

/**
 * Remembers the answers of requests that carried an `Idempotency-Key`. The first request runs; equal ones wait for it
 * and get its answer, while it is kept (by age, by count, by bytes: the oldest goes first). Failures that may pass
 * (429, 5xx) and rejections are not kept, so that a retry runs. In memory: a restart forgets.
 *
 * Errors: `idempotency_mismatch`.
 */
export interface IdempotencyMemory {
  run(request: IdempotencyRequest, work: (note: (text: string) => void) => Promise<Answer>): Promise<Outcome>
  readonly size: number
}

/** The first request's own answer; or the work of an earlier one, which may still be under way. */
export type Outcome =
  | { readonly repeated: false; readonly answer: Answer }
  | {
      readonly repeated: true
      /** What the work noted about itself so far: the id of what it started. */
      readonly note: string | undefined
      readonly answer: () => Promise<Answer>
    }

export interface IdempotencyOptions {
  readonly maxEntries: number
  readonly maxBytes: number
  readonly ttlMs: number
  readonly now?: () => number
}

interface Entry {
  readonly fingerprint: string
  readonly answer: Promise<Answer>
  note?: string
  /** Set once the answer is there: until then the entry is held whatever the bounds say. */
  settled?: { bytes: number; expiresAt: number }
}

export const idempotencyMemory = (options: IdempotencyOptions): IdempotencyMemory => {
  const now = options.now ?? Date.now
  const entries = new Map<string, Entry>()
  let bytes = 0

  const forget = (id: string): void => {
    bytes -= entries.get(id)?.settled?.bytes ?? 0
    entries.delete(id)
  }
  const trim = (): void => {
    for (const [id, entry] of entries) {
      if (!entry.settled) continue
      if (entry.settled.expiresAt > now() && entries.size <= options.maxEntries && bytes <= options.maxBytes) return
      forget(id)
    }
  }
  const settle = (id: string, entry: Entry, answer: Answer): void => {
    if (entries.get(id) !== entry) return
    if (answer.status === 429 || answer.status >= 500) {
      forget(id)
      return
    }
    const size = 512 + (answer.text?.length ?? 0) * 2
    entry.settled = { bytes: size, expiresAt: now() + options.ttlMs }
    bytes += size
    // Moved to the end, so that the order of the map is the order of expiry.
    entries.delete(id)
    entries.set(id, entry)
    trim()
  }

  return {
    get size() {
      return entries.size
    },
    run: async (request, work) => {
      trim()
      const id = JSON.stringify([request.tenant, request.route, request.key])
      const known = entries.get(id)
      if (known) {
        if (known.fingerprint !== request.fingerprint)
          throw new BrambleError('idempotency_mismatch', { detail: `\`${request.key}\` came first with another body` })
        return { repeated: true, note: known.note, answer: () => known.answer }
      }
      const first = Promise.withResolvers<Answer>()
      // Whoever repeats the request may come or not.
      first.promise.catch(() => {})
      const entry: Entry = { fingerprint: request.fingerprint, answer: first.promise }
      entries.set(id, entry)
      try {
        const answer = await work((text) => {
          entry.note = text
        })
        first.resolve(answer)
        settle(id, entry, answer)
        return { repeated: false, answer }
      } catch (error) {
        first.reject(error)
        if (entries.get(id) === entry) forget(id)
        throw error
      }
    },
  }
}
