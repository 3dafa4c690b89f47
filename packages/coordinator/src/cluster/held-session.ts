import {
  BrambleError,
  type CoordinatorFrame,
  type LeaseRef,
  toBrambleError,
  type Welcome,
  type WorkerFrame,
} from '@bramble/protocol'
import type { Network, OpenSession, WorkerSession } from '../network/network.ts'
import { isLost } from './lost.ts'

/**
 * A worker's session that outlives the coordinator that writes: it knows what the worker runs, and what the worker said and nobody
 * has taken yet. To the next writer it is opened anew, with that; the worker notices nothing but what it is to stop.
 */
export interface HeldSession {
  readonly session: WorkerSession
  /** That one does not write any more: what the worker says waits. */
  lost(): void
  /** Rejects where that one is lost, too. */
  reopen(network: Network): Promise<void>
}

interface Unsettled extends PromiseWithResolvers<void> {
  readonly frame: WorkerFrame
}

/** What is not worth saying later: the next one says the same, or nobody waits for it any more. */
const passes = (frame: WorkerFrame): boolean =>
  frame.type === 'beat' || frame.type === 'output' || frame.type === 'reply'

export interface HoldOptions {
  readonly network: Network
  readonly command: OpenSession
  readonly deliver: (frame: CoordinatorFrame) => void
  /** Its writer was lost, and it waits to be opened anew. */
  readonly onLost: () => void
  readonly onClosed: () => void
}

export const holdSession = async (options: HoldOptions): Promise<HeldSession> => {
  const { deliver, onLost, onClosed } = options
  let { command } = options
  const running = new Map(command.running.map((ref) => [ref.execution, ref]))
  const unsettled = new Set<Unsettled>()
  let drained: WorkerFrame | undefined
  let session: WorkerSession | undefined
  /** What the first writer called it. */
  let since: string | undefined
  let ended = false
  /** Of the session that is heard: what an earlier one says comes too late. */
  let turn = 0

  const forget = (refs: readonly LeaseRef[]): void => {
    for (const { execution, token } of refs) if (running.get(execution)?.token === token) running.delete(execution)
  }
  const take = (frame: CoordinatorFrame): void => {
    if (frame.type === 'lease')
      for (const { execution, token } of frame.items) running.set(execution, { execution, token })
    if (frame.type === 'cancel' || frame.type === 'ack') forget(frame.items)
    deliver(frame)
  }
  /** What it ran and is not to go on with, but for results that wait to be taken: each of them is answered. */
  const stopped = (held: readonly LeaseRef[], { keep }: Welcome): LeaseRef[] => {
    const answered = [...unsettled].flatMap(({ frame }) =>
      frame.type === 'commit' || frame.type === 'failed' ? frame.items.map(({ execution }) => execution) : [],
    )
    const goesOn = new Set([...keep.map(({ execution }) => execution), ...answered])
    // One that was leased anew since then is another object.
    return held.filter((ref) => !goesOn.has(ref.execution) && running.get(ref.execution) === ref)
  }
  const open = async (network: Network, opened: (stop: readonly LeaseRef[]) => void): Promise<Welcome> => {
    const mine = ++turn
    session = undefined
    const held = [...running.values()]
    const made = await network.session(
      { ...command, running: held, ...(since !== undefined && { since }) },
      (frame) => {
        if (mine === turn && !ended) take(frame)
      },
    )
    if (mine !== turn || ended) {
      made.close()
      throw new BrambleError('not_leader', { detail: 'the writer changed while a session was opened' })
    }
    session = made
    since ??= made.welcome.session
    const stop = stopped(held, made.welcome)
    forget(stop)
    opened(stop)
    return made.welcome
  }

  const settle = (said: Unsettled, error?: unknown): void => {
    if (!unsettled.delete(said)) return
    if (error === undefined) said.resolve()
    else said.reject(error)
  }
  const lose = (): void => {
    turn++
    session = undefined
    for (const said of [...unsettled]) if (passes(said.frame)) settle(said)
    if (!ended) onLost()
  }
  const say = (said: Unsettled): void => {
    const mine = turn
    session?.frame(said.frame).then(
      () => settle(said),
      (error: unknown) => {
        if (!isLost(error)) settle(said, error)
        else if (mine === turn) lose()
      },
    )
  }

  const welcome = await open(options.network, () => {})
  return {
    session: {
      welcome,
      frame(frame) {
        if (ended) return Promise.resolve()
        if (frame.type === 'report') command = { ...command, report: frame.report }
        if (frame.type === 'drain') drained = frame
        if (!session && passes(frame)) return Promise.resolve()
        const said: Unsettled = { frame, ...Promise.withResolvers<void>() }
        unsettled.add(said)
        say(said)
        return said.promise
      },
      close(how) {
        if (ended) return
        ended = true
        session?.close(how)
        for (const said of [...unsettled]) settle(said)
        onClosed()
      },
    },
    lost() {
      if (session) lose()
    },
    async reopen(network) {
      if (ended) return
      try {
        await open(network, (stop) => {
          if (stop.length > 0) deliver({ type: 'cancel', items: stop.map((ref) => ({ ...ref, reason: 'lease_lost' })) })
          if (drained) session?.frame(drained).catch(() => {})
          for (const said of [...unsettled]) say(said)
        })
      } catch (error) {
        if (ended) return
        if (isLost(error)) throw error
        const { retryAfterMs, ...problem } = toBrambleError(error).toProblem()
        deliver({ type: 'bye', error: problem, ...(retryAfterMs !== undefined && { retryAfterMs }) })
      }
    },
  }
}
