import { BrambleError, type CoordinatorFrame, type Lease, type NodeId, type Problem } from '@bramble/protocol'

/** How nodes are reached: by the stream of a session, or by the poll that waits. */
export interface Sessions {
  /** A name for a session that begins now: in the order of letters after all that began before, with whichever writer. */
  name(): string
  /**
   * Ends the one that the node has. One that goes on under another writer has begun with the name `since`: it is refused
   * (`conflict`) where the node has begun another one since then.
   */
  open(node: NodeId, id: string, since: string, deliver: (frame: CoordinatorFrame) => void): void
  /** True where this was the node's session, and not one that a newer replaced. */
  close(node: NodeId, id: string): boolean
  has(node: NodeId): boolean
  /** Whether that is the session that the node has now. */
  isOpen(node: NodeId, id: string): boolean
  send(node: NodeId, frame: CoordinatorFrame): void
  /** Several within one turn go as one frame. False: the node cannot be reached now. */
  lease(node: NodeId, lease: Lease): boolean
  request(node: NodeId, method: string, params: unknown, options?: { signal?: AbortSignal }): Promise<unknown>
  reply(node: NodeId, id: number, answer: { value?: unknown; error?: Problem }): void
  /** A poll that waits; resolves when there may be leases. */
  wait(node: NodeId, ms: number, signal?: AbortSignal): Promise<void>
  wakePolls(node: NodeId): void
  readonly size: number
  closeAll(): void
}

interface Session {
  readonly id: string
  readonly since: string
  readonly deliver: (frame: CoordinatorFrame) => void
  readonly requests: Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>
  nextRequest: number
  leases: Lease[]
}

/** A worker that is told so is one whose connections overtook each other, or one of two that have the same key. */
const REPLACED = new BrambleError('conflict', { detail: 'a newer session of this node took over', retryAfterMs: 5_000 })
const nameOf = (epoch: number, number: number): string =>
  `ses_${[epoch, number].map((part) => part.toString(36).padStart(9, '0')).join('_')}`
const gone = (): BrambleError => new BrambleError('no_node', { detail: 'the node went away', retryAfterMs: 1000 })

export const openSessions = (epoch: number, schedule: (ms: number, work: () => void) => () => void): Sessions => {
  let names = 0
  const sessions = new Map<NodeId, Session>()
  const polls = new Map<NodeId, Set<() => void>>()
  const drop = (session: Session): void => {
    for (const { reject } of session.requests.values()) reject(gone())
    session.requests.clear()
  }
  const wakePolls = (node: NodeId): void => {
    for (const wake of polls.get(node) ?? []) wake()
  }
  return {
    name: () => nameOf(epoch, ++names),
    open: (node, id, since, deliver) => {
      const other = sessions.get(node)
      if (other && other.since > since) throw REPLACED
      if (other) {
        drop(other)
        other.deliver({ type: 'bye', error: REPLACED.toProblem(), retryAfterMs: REPLACED.retryAfterMs })
      }
      sessions.set(node, { id, since, deliver, requests: new Map(), nextRequest: 1, leases: [] })
    },
    close: (node, id) => {
      const session = sessions.get(node)
      if (session?.id !== id) return false
      sessions.delete(node)
      drop(session)
      return true
    },
    has: (node) => sessions.has(node),
    isOpen: (node, id) => sessions.get(node)?.id === id,
    send: (node, frame) => sessions.get(node)?.deliver(frame),
    lease: (node, lease) => {
      const session = sessions.get(node)
      if (!session) return false
      session.leases.push(lease)
      if (session.leases.length === 1)
        queueMicrotask(() => {
          const items = session.leases
          session.leases = []
          session.deliver({ type: 'lease', items })
        })
      return true
    },
    request: (node, method, params, { signal } = {}) => {
      const session = sessions.get(node)
      if (!session) return Promise.reject(gone())
      signal?.throwIfAborted()
      const id = session.nextRequest++
      const { promise, resolve, reject } = Promise.withResolvers<unknown>()
      session.requests.set(id, { resolve, reject })
      const abort = () => {
        session.requests.delete(id)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', abort, { once: true })
      session.deliver({ type: 'request', id, method, params })
      return promise.finally(() => signal?.removeEventListener('abort', abort))
    },
    reply: (node, id, { value, error }) => {
      const request = sessions.get(node)?.requests.get(id)
      if (!request) return
      sessions.get(node)?.requests.delete(id)
      if (error) request.reject(BrambleError.fromProblem(error))
      else request.resolve(value)
    },
    wait: async (node, ms, signal) => {
      const ofNode = polls.get(node) ?? new Set()
      polls.set(node, ofNode)
      await new Promise<void>((resolve) => {
        const done = () => {
          cancel()
          signal?.removeEventListener('abort', done)
          ofNode.delete(done)
          if (ofNode.size === 0) polls.delete(node)
          resolve()
        }
        const cancel = schedule(ms, done)
        ofNode.add(done)
        if (signal?.aborted) done()
        else signal?.addEventListener('abort', done, { once: true })
      })
    },
    wakePolls,
    get size() {
      return sessions.size
    },
    closeAll: () => {
      for (const session of sessions.values()) drop(session)
      sessions.clear()
      for (const node of [...polls.keys()]) wakePolls(node)
    },
  }
}
