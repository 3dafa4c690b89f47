import type { NodeId } from '@bramble/protocol'
import type { Document } from '../store/store.ts'
import type { Epochs } from './epochs.ts'
import type { RoutingLimits } from './limits.ts'
import type { NodeWatch } from './node-watch.ts'

/**
 * Which user is on which node. The record decides, and the hash only where there is none: a user stays while the node is there,
 * is moved (with a larger epoch) when it is gone, and does not go back when it returns. Who was not heard of for
 * `sessionIdleMs` is forgotten, and comes back to where the hash says.
 *
 * Each placement is a document; that a user was here is written now and then only (`sessionIdleMs / 4`), so after a restart a user
 * may be forgotten that much sooner.
 */
export interface UserSessions {
  /** The user's node, now heard of. `isNew`: it was chosen just now, which is to be durable before anybody is told. */
  place(tenant: string, user: string): PlacedUser | undefined
  /** Forgets some of those that are idle; true where there may be more. */
  sweep(): boolean
  load(documents: Iterable<Document>): void
  /** The node is there again: it still holds who was on it. */
  recount(node: NodeId): void
  readonly size: number
}

export interface PlacedUser {
  readonly node: NodeId
  readonly epoch: number
  readonly isNew: boolean
}

/**
 * Small numbers, so that a session is one flat object: seconds since `beganMs`. It is in a list, in the order in which users were
 * heard of: a `Map` keeps an order too, but finding its first entry costs more with each that was deleted before it.
 */
interface Session {
  readonly key: string
  node: NodeId
  epoch: number
  usedAt: number
  storedAt: number
  older: Session | undefined
  newer: Session | undefined
}

export interface UserSessionsOptions {
  readonly watch: NodeWatch
  readonly epochs: Epochs
  note(document: Document): void
  now(): number
  readonly limits: RoutingLimits
}

const KIND = 'session'

export const openUserSessions = ({ watch, epochs, note, now, limits }: UserSessionsOptions): UserSessions => {
  const { homes } = watch
  const beganMs = now()
  const sessions = new Map<string, Session>()
  const counts = new Map<NodeId, number>()
  /** One string for each node, however many documents name it. */
  const names = new Map<NodeId, NodeId>()
  let oldest: Session | undefined
  let newest: Session | undefined
  const idleSeconds = limits.sessionIdleMs / 1000

  const seconds = (ms: number): number => Math.round((ms - beganMs) / 1000)
  const nameOf = (node: NodeId): NodeId => {
    const name = names.get(node)
    if (name === undefined) names.set(node, node)
    return name ?? node
  }
  const count = (node: NodeId, by: 1 | -1): void => {
    const held = (counts.get(node) ?? 0) + by
    if (held > 0) counts.set(node, held)
    else counts.delete(node)
    homes.hold(node, by)
  }
  const unlink = ({ older, newer }: Session): void => {
    if (older) older.newer = newer
    else oldest = newer
    if (newer) newer.older = older
    else newest = older
  }
  const link = (session: Session): void => {
    session.older = newest
    session.newer = undefined
    if (newest) newest.newer = session
    else oldest = session
    newest = session
  }
  const write = (session: Session): void => {
    session.storedAt = session.usedAt
    const { key, node, epoch, usedAt } = session
    note({ kind: KIND, id: key, value: { node, epoch, at: usedAt * 1000 + beganMs } })
  }
  const forget = (session: Session): void => {
    const { key, node } = session
    sessions.delete(key)
    unlink(session)
    count(node, -1)
    note({ kind: KIND, id: key, value: undefined })
    note(epochs.document())
  }
  const add = (session: Session): void => {
    sessions.set(session.key, session)
    link(session)
    count(session.node, 1)
  }
  /** Bounded loads; where all are full, as can be after many nodes went, whoever is first. */
  const choose = (key: string): NodeId | undefined => {
    const allowed = (id: string): boolean => watch.takesMore(id as NodeId)
    return (homes.choose(key, { bounded: true, allowed }) ?? homes.choose(key, { allowed })) as NodeId | undefined
  }

  return {
    place: (tenant, user) => {
      const key = `${tenant}/${user}`
      const usedAt = seconds(now())
      const session = sessions.get(key)
      if (session && !watch.isGone(session.node)) {
        session.usedAt = usedAt
        if (session !== newest) {
          unlink(session)
          link(session)
        }
        if (usedAt - session.storedAt > idleSeconds / 4) write(session)
        return { node: session.node, epoch: session.epoch, isNew: false }
      }
      const chosen = choose(key)
      if (chosen === undefined) return undefined
      const node = nameOf(chosen)
      const epoch = epochs.next()
      if (session) {
        unlink(session)
        count(session.node, -1)
      }
      const placed: Session = { key, node, epoch, usedAt, storedAt: usedAt, older: undefined, newer: undefined }
      add(placed)
      write(placed)
      if (sessions.size > limits.maxSessions && oldest) forget(oldest)
      return { node, epoch, isNew: true }
    },
    sweep: () => {
      const until = seconds(now()) - idleSeconds
      for (let forgotten = 0; forgotten < limits.maxForgottenSessions; forgotten++) {
        if (!oldest || oldest.usedAt > until) return false
        forget(oldest)
      }
      return true
    },
    load: (documents) => {
      const found: Session[] = []
      for (const { kind, id, value } of documents) {
        if (kind !== KIND || !isStored(value)) continue
        const usedAt = seconds(value.at)
        const node = nameOf(value.node)
        found.push({ key: id, node, epoch: value.epoch, usedAt, storedAt: usedAt, older: undefined, newer: undefined })
        epochs.seen(value.epoch)
      }
      for (const session of found.sort((left, right) => left.usedAt - right.usedAt)) add(session)
    },
    recount: (node) => homes.hold(node, (counts.get(node) ?? 0) - homes.held(node)),
    get size() {
      return sessions.size
    },
  }
}

const isStored = (value: unknown): value is { node: NodeId; epoch: number; at: number } =>
  typeof value === 'object' && value !== null && 'node' in value && 'epoch' in value && 'at' in value
