import { createHash, randomBytes } from 'node:crypto'
import {
  BrambleError,
  type Invite,
  type InviteRequest,
  inviteRequestSchema,
  type NetworkNode,
  newId,
} from '@bramble/protocol'
import { z } from 'zod'
import { mayRegister, type OwnerRecord, withStrike } from '../reputation/owners.ts'
import type { RegisterNode } from './network.ts'
import { type NodeRecord, nodeView, setStatus, takeReport, updateTable, writeNode } from './node-records.ts'
import type { WriterContext } from './writer-context.ts'

/** Who may join, and as whose. Invites are kept by the hash of their token. */
export interface Registry {
  readonly invites: Map<string, StoredInvite>
  readonly owners: Map<string, OwnerRecord>
}

export const storedInviteSchema = inviteRequestSchema.extend({ expiresAtMs: z.number(), used: z.number().int() })
export type StoredInvite = z.output<typeof storedInviteSchema>

const hashOf = (token: string): string => createHash('sha256').update(token).digest('hex')

export const makeInvite = async (w: WriterContext, registry: Registry, request: InviteRequest): Promise<Invite> => {
  const bytes = new Uint8Array(24)
  if (w.random) w.random(bytes)
  else randomBytes(24).copy(bytes)
  const token = `${newId('invite', { now: w.now, ...(w.random && { random: w.random }) })}.${Buffer.from(bytes).toString('base64url')}`
  const expiresAtMs = w.now() + request.ttlMs
  for (const [id, old] of registry.invites) {
    if (old.expiresAtMs > w.now()) continue
    registry.invites.delete(id)
    writeInvite(w, id, undefined)
  }
  const invite: StoredInvite = { ...request, expiresAtMs, used: 0 }
  registry.invites.set(hashOf(token), invite)
  writeInvite(w, hashOf(token), invite)
  await w.outbox.durable()
  return { ...request, token, expiresAt: new Date(expiresAtMs).toISOString() }
}

const writeInvite = (w: WriterContext, id: string, value: StoredInvite | undefined): void =>
  w.journal.add({ documents: [{ kind: 'invite', id, value }] })

const writeOwner = (w: WriterContext, id: string, value: OwnerRecord): void =>
  w.journal.add({ documents: [{ kind: 'owner', id, value }] })

/** A node that comes for the first time, or again with a new report. */
export const register = async (
  w: WriterContext,
  registry: Registry,
  { registration, subnet }: RegisterNode,
): Promise<NetworkNode> => {
  const { node: id, publicKey, name, report } = registration
  const known = w.nodes.get(id)
  if (known) {
    if (known.status === 'suspended')
      throw new BrambleError('node_suspended', { detail: known.message ?? 'it was suspended' })
    takeReport(known, report)
    known.subnet = subnet
    known.lastSeenAt = w.now()
    known.heardAt = w.steady()
    updateTable(w, known)
    writeNode(w, known)
    await w.outbox.durable()
    return nodeView(w, known)
  }
  if (w.nodes.size >= w.config.maxNodes)
    throw new BrambleError('quota_exceeded', { detail: `the network has ${w.nodes.size} nodes, and takes no more` })
  const { invite, take } = findInvite(w, registry, registration.token, id)
  const joining = identitiesOf(w, invite.owner, subnet).map((key) => {
    const verdict = mayRegister(registry.owners.get(key), w.now(), { maxNodes: w.config.maxNodesPerOwner })
    if (verdict.allowed) return { key, owner: verdict.owner }
    throw new BrambleError('node_suspended', {
      detail: verdict.message,
      ...(verdict.retryAfterMs !== undefined && { retryAfterMs: verdict.retryAfterMs }),
    })
  })
  take()
  for (const { key, owner } of joining) {
    registry.owners.set(key, owner)
    writeOwner(w, key, owner)
  }
  const record: NodeRecord = {
    id,
    publicKey,
    owner: invite.owner,
    ...(name !== undefined && { name }),
    anchor: invite.anchor,
    registeredAt: w.now(),
    labels: invite.labels,
    report: { ...report, labels: { ...report.labels, ...invite.labels } },
    subnet,
    status: 'suspect',
    lastSeenAt: w.now(),
    heardAt: w.steady(),
    logSeq: w.journal.seq,
  }
  w.nodes.set(id, record)
  updateTable(w, record)
  writeNode(w, record)
  await w.outbox.durable()
  return nodeView(w, record)
}

/** What a node would join by; `take` counts it, once it may. */
const findInvite = (
  w: WriterContext,
  registry: Registry,
  token: string | undefined,
  node: string,
): { invite: Pick<StoredInvite, 'owner' | 'anchor' | 'labels'>; take(): void } => {
  if (token === undefined) {
    if (w.config.join === 'open') return { invite: { owner: node, anchor: false, labels: {} }, take: () => {} }
    throw new BrambleError('forbidden', { detail: 'this network takes nodes by invite: join with a token' })
  }
  const id = hashOf(token)
  const invite = registry.invites.get(id)
  if (!invite || invite.expiresAtMs <= w.now())
    throw new BrambleError('forbidden', { detail: 'the invite is not known here, or its time is over' })
  if (invite.used >= invite.maxNodes)
    throw new BrambleError('forbidden', { detail: `the invite was for ${invite.maxNodes} nodes, and as many joined` })
  const take = (): void => {
    invite.used++
    writeInvite(w, id, invite)
  }
  return { invite, take }
}

/** A strike against the owner of a node that was convicted: others of that owner wait longer to join. */
export const strike = (w: WriterContext, registry: Registry, { owner, subnet }: NodeRecord): void => {
  for (const key of identitiesOf(w, owner, subnet)) {
    const struck = withStrike(registry.owners.get(key), w.now())
    registry.owners.set(key, struck)
    writeOwner(w, key, struck)
  }
}

/** Where anyone may join, names cost nothing, and the subnet answers with them. */
const identitiesOf = (w: WriterContext, owner: string, subnet: string): string[] =>
  w.config.join === 'open' ? [owner, `subnet:${subnet}`] : [owner]

/** Nothing new is placed there; what runs goes on. */
export const drain = async (w: WriterContext, record: NodeRecord): Promise<NetworkNode> => {
  setStatus(w, record, 'drained')
  await w.outbox.durable()
  return nodeView(w, record)
}

export const resume = async (w: WriterContext, record: NodeRecord): Promise<NetworkNode> => {
  setStatus(w, record, w.sessions.has(record.id) ? 'online' : 'suspect', '')
  await w.outbox.durable()
  return nodeView(w, record)
}
