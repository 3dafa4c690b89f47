import {
  BrambleError,
  type CoordinatorFrame,
  type LeaseRef,
  LIMITS,
  toBrambleError,
  type Welcome,
} from '@bramble/protocol'
import { backoffMs } from './backoff.ts'
import { createHoldings, type Held } from './holdings.ts'
import type { Connect, Link, LinkContext, LinkEnd } from './link.ts'
import { outputFrames } from './live-output.ts'
import { networkClock } from './network-clock.ts'
import { pollLink } from './poll-link.ts'
import type { Schedule, Session, SessionOptions } from './session.ts'
import { streamLink } from './stream-link.ts'

/** Executions that end sooner are not told of as running: their result says it. */
const STARTED_AFTER_MS = 25
/** A result that could not be taken at the moment is sent again. */
const SEND_AGAIN_MS = 1000
/** At `close`, for the last results to be acknowledged. */
const LAST_WORDS_MS = 3000
/** A connection that stood this long was none that failed. */
const STEADY_MS = 10_000

const timers: Schedule = (ms, run) => {
  const timer = setTimeout(run, ms)
  return () => clearTimeout(timer)
}

const CONNECT: Readonly<Record<NonNullable<SessionOptions['transport']>, Connect>> = {
  stream: streamLink,
  poll: pollLink,
}

/** Who is not known there registers, and comes again. */
const UNKNOWN: readonly string[] = ['not_found', 'signature_invalid', 'unauthorized']

/** Begins to connect, and goes on for as long as it is not closed, or refused for good. */
export const openSession = (options: SessionOptions): Session => {
  const { identity, onEvent = () => {}, schedule = timers, soon = setImmediate, random = Math.random } = options
  const clock = options.clock ?? networkClock()
  const leaving = new AbortController()
  const asked = new AbortController()
  const ready = Promise.withResolvers<Welcome>()
  const ended = Promise.withResolvers<BrambleError | undefined>()
  const openWaiters = new Set<() => void>()
  let report = options.report
  let link: Link | undefined
  let network = ''
  let draining = false
  let sending = false
  let tellingStarted = false
  let state: Session['state'] = 'connecting'

  const flush = (): void => {
    sending = false
    if (link === undefined || holdings.size === 0) return
    const items = holdings.results(network)
    if (items.length > 0) link.results(items)
  }
  const tellStarted = (): void => {
    tellingStarted = false
    const refs = link === undefined ? [] : holdings.started()
    if (refs.length > 0) link?.started(refs)
  }

  const output = async (held: Held, stream: 'stdout' | 'stderr', data: Uint8Array): Promise<boolean> => {
    for (const frame of outputFrames(held, stream, data)) {
      while (link === undefined && held.phase !== 'ended' && state !== 'closed')
        await new Promise<void>((resolve) => openWaiters.add(resolve))
      if (held.phase === 'ended' || link?.output === undefined) return false
      await link.output(frame)
    }
    return held.phase !== 'ended' && held.outputBytes < LIMITS.maxJobLogBytes.value
  }

  const holdings = createHoldings({
    ...{ identity, execute: options.execute, onEvent, output },
    changed: (what) => {
      if (what === 'ended' && !sending) {
        sending = true
        soon(flush)
      }
      if (what === 'started' && !tellingStarted) {
        tellingStarted = true
        schedule(STARTED_AFTER_MS, tellStarted)
      }
    },
  })

  const acknowledge = (items: Extract<CoordinatorFrame, { type: 'ack' }>['items']): void => {
    for (const { execution, token, error } of items) {
      const ref = { execution, token }
      if (!error?.retryable) {
        holdings.acknowledge(ref, error)
        continue
      }
      schedule(error.retryAfterMs ?? SEND_AGAIN_MS, () => {
        holdings.sendAgain(ref)
        flush()
      })
    }
  }

  const answer = async (request: Extract<CoordinatorFrame, { type: 'request' }>): Promise<void> => {
    const { id, method, params } = request
    const from = link
    try {
      const handler = Object.hasOwn(options.requests ?? {}, method) ? options.requests?.[method] : undefined
      if (!handler) throw new BrambleError('unsupported', { detail: `this worker does not know \`${method}\`` })
      const value = await handler(params, asked.signal)
      if (link === from) from?.reply({ id, value: value ?? null })
    } catch (error) {
      if (link === from) from?.reply({ id, error: toBrambleError(error).toProblem() })
    }
  }

  const took: LinkContext['took'] = (frame, refused) => {
    switch (frame.type) {
      case 'lease':
        for (const lease of frame.items) holdings.take(lease)
        for (const { lease, message } of refused) giveBack(lease, message)
        return
      case 'cancel':
        for (const { reason, ...ref } of frame.items) holdings.stop(ref, reason)
        return
      case 'ack':
        return acknowledge(frame.items)
      case 'request':
        void answer(frame)
        return
      case 'renewed':
      case 'bye':
        return
      default:
        frame satisfies never
    }
  }

  const giveBack = (lease: LeaseRef, message: string): void => {
    const failure = { ...lease, code: 'unsupported', message: `the worker does not understand the lease: ${message}` }
    const text = JSON.stringify(failure)
    link?.results([{ kind: 'failed', text, bytes: Buffer.byteLength(text) }])
  }

  let openedAtMs: number | undefined
  let registered = false
  const context: LinkContext = {
    ...{ options, holdings, clock, schedule, took },
    report: () => report,
    draining: () => draining,
    opened: (opened, ofNetwork, welcome) => {
      link = opened
      network = ofNetwork
      state = 'open'
      openedAtMs = clock.now()
      holdings.keepOnly(welcome.keep)
      holdings.forgetSent()
      onEvent({ type: 'open', welcome, held: holdings.size })
      ready.resolve(welcome)
      if (draining) link.drain()
      flush()
      tellStarted()
      for (const resolve of openWaiters) resolve()
      openWaiters.clear()
    },
  }

  const wait = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => {
        cancel()
        leaving.signal.removeEventListener('abort', done)
        resolve()
      }
      const cancel = schedule(ms, done)
      leaving.signal.addEventListener('abort', done, { once: true })
      if (leaving.signal.aborted) done()
    })

  /** One connection from its making to its end. */
  const connectOnce = async (register: boolean): Promise<LinkEnd & { steady: boolean }> => {
    openedAtMs = undefined
    try {
      if (register) await options.register?.(leaving.signal)
      registered = true
    } catch (error) {
      const failure = toBrambleError(error)
      const { retryable, retryAfterMs } = failure
      if (!retryable) return { error: failure, steady: false, retryAfterMs: 'never' }
      return { error: failure, steady: false, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
    const end = await CONNECT[options.transport ?? 'stream'](context, leaving.signal)
    link = undefined
    state = 'connecting'
    return { ...end, steady: openedAtMs !== undefined && clock.now() - openedAtMs >= STEADY_MS }
  }

  const goOn = async (): Promise<BrambleError | undefined> => {
    let failures = 0
    let register = options.register !== undefined
    while (!leaving.signal.aborted) {
      const { error, retryAfterMs, steady } = await connectOnce(register)
      if (leaving.signal.aborted) return undefined
      register = options.register !== undefined && (UNKNOWN.includes(error.code) || !registered)
      // Whoever was forgotten registers; that is refused for good, if anything is.
      if (retryAfterMs === 'never' && !(register && error.code === 'not_found')) return error
      failures = steady ? 0 : failures + 1
      const retryInMs = typeof retryAfterMs === 'number' ? retryAfterMs : backoffMs(failures - 1, random)
      onEvent({ type: 'away', error, retryInMs })
      await wait(retryInMs)
    }
    return undefined
  }

  const finish = (error: BrambleError | undefined): void => {
    state = 'closed'
    const reason = error ?? new BrambleError('shutting_down', { detail: 'the worker left the network' })
    holdings.fail(reason)
    asked.abort(reason)
    ready.reject(reason)
    for (const resolve of openWaiters) resolve()
    ended.resolve(error)
  }
  ready.promise.catch(() => {})
  goOn().then(finish, (error: unknown) => finish(toBrambleError(error)))

  const drain = (): Promise<void> => {
    if (!draining) link?.drain()
    draining = true
    return holdings.none('held')
  }

  const atMost = async (ms: number, work: Promise<void>): Promise<void> => {
    const late = Promise.withResolvers<void>()
    const cancel = schedule(ms, late.resolve)
    await Promise.race([work, late.promise, ended.promise])
    cancel()
  }

  let closed: Promise<void> | undefined
  const closeOnce = async (graceMs: number, lastWordsMs: number): Promise<void> => {
    const drained = drain()
    await atMost(graceMs, holdings.none('running'))
    holdings.fail(new BrambleError('shutting_down', { detail: 'the worker shuts down' }))
    if (link !== undefined) await atMost(lastWordsMs, drained)
    leaving.abort()
    await ended.promise
  }
  const close: Session['close'] = ({ graceMs = 0, lastWordsMs = LAST_WORDS_MS } = {}) => {
    closed ??= closeOnce(graceMs, lastWordsMs)
    return closed
  }

  return {
    node: identity.id,
    ready: ready.promise,
    ended: ended.promise,
    get state() {
      return state
    },
    held: () => holdings.refs(),
    report: (changed) => {
      report = changed
      link?.report(changed)
    },
    drain,
    close,
    [Symbol.asyncDispose]: () => close(),
  }
}
