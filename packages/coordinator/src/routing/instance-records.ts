import {
  type InstanceId,
  type InstanceSpec,
  instanceSpecSchema,
  type NetworkInstance,
  type NodeId,
} from '@bramble/protocol'
import type { NodeTable } from '../placement/placement.ts'
import type { Document } from '../store/store.ts'
import type { Epochs } from './epochs.ts'

/** An instance as the network remembers it: one document. */
export interface InstanceRecord {
  readonly id: InstanceId
  readonly tenant: string
  readonly spec: InstanceSpec
  readonly createdAt: number
  /** Where it is; while it moves, where it was. */
  node: NodeId
  epoch: number
  /** `starting`: nobody was told of it yet. */
  state: 'starting' | 'live'
  /** Where it is being made again. Its epoch is given to nobody else, whatever comes of it. */
  move?: { readonly node: NodeId; readonly epoch: number }
  /** Of its files, in the shared tier. */
  snapshot?: string
  snapshotAt?: number
  /** The one before, which goes once the new one is written down. */
  olderSnapshot?: string
  message?: string
}

/** The records of a network, by what they are asked for. */
export interface InstanceRecords {
  get(id: InstanceId): InstanceRecord | undefined
  /** By id or name. */
  find(ref: string, tenant: string): InstanceRecord | undefined
  ofNode(node: NodeId): ReadonlySet<InstanceRecord>
  movingTo(node: NodeId): ReadonlySet<InstanceRecord>
  ofTenant(tenant: string): ReadonlySet<InstanceRecord>
  nodes(): Iterable<NodeId>
  add(record: InstanceRecord): void
  /** Applies and writes; durable when the journal says so. */
  change(record: InstanceRecord, change: Partial<InstanceRecord>): void
  remove(record: InstanceRecord): void
  load(documents: Iterable<Document>): void
  readonly size: number
}

export interface InstanceRecordsOptions {
  readonly table: Pick<NodeTable, 'reserve' | 'release'>
  readonly epochs: Epochs
  note(document: Document): void
}

const KIND = 'instance'

/** Memory is the instance's while it lives. Processors it shares with whatever else runs there, and it takes no slot of executions. */
export const needOf = ({ resources }: InstanceSpec) => ({
  slots: 0,
  cpus: 0,
  memoryMb: resources.memoryMb,
  gpus: resources.gpus ?? 0,
})

const NONE: ReadonlySet<InstanceRecord> = new Set()

export const openInstanceRecords = ({ table, epochs, note }: InstanceRecordsOptions): InstanceRecords => {
  const byId = new Map<InstanceId, InstanceRecord>()
  const byName = new Map<string, InstanceRecord>()
  const byNode = new Map<NodeId, Set<InstanceRecord>>()
  const byTarget = new Map<NodeId, Set<InstanceRecord>>()
  const byTenant = new Map<string, Set<InstanceRecord>>()

  const into = <K>(index: Map<K, Set<InstanceRecord>>, key: K, record: InstanceRecord): void => {
    const set = index.get(key) ?? new Set()
    index.set(key, set.add(record))
  }
  const outOf = <K>(index: Map<K, Set<InstanceRecord>>, key: K, record: InstanceRecord): void => {
    const set = index.get(key)
    set?.delete(record)
    if (set?.size === 0) index.delete(key)
  }
  const nameKey = ({ tenant, spec }: InstanceRecord): string | undefined =>
    spec.name === undefined ? undefined : `${tenant}/${spec.name}`
  const write = (record: InstanceRecord): void => note({ kind: KIND, id: record.id, value: record })
  const settle = (record: InstanceRecord): void => {
    into(byNode, record.node, record)
    if (record.move) into(byTarget, record.move.node, record)
    table.reserve(record.node, needOf(record.spec))
  }
  const lift = (record: InstanceRecord): void => {
    outOf(byNode, record.node, record)
    if (record.move) outOf(byTarget, record.move.node, record)
    table.release(record.node, needOf(record.spec))
  }
  const index = (record: InstanceRecord): void => {
    byId.set(record.id, record)
    const name = nameKey(record)
    if (name !== undefined) byName.set(name, record)
    into(byTenant, record.tenant, record)
    settle(record)
    epochs.seen(Math.max(record.epoch, record.move?.epoch ?? 0))
  }

  return {
    get: (id) => byId.get(id),
    find: (ref, tenant) => {
      const record = byId.get(ref as InstanceId) ?? byName.get(`${tenant}/${ref}`)
      return record?.tenant === tenant ? record : undefined
    },
    ofNode: (node) => byNode.get(node) ?? NONE,
    movingTo: (node) => byTarget.get(node) ?? NONE,
    ofTenant: (tenant) => byTenant.get(tenant) ?? NONE,
    nodes: () => byNode.keys(),
    add: (record) => {
      index(record)
      write(record)
    },
    change: (record, change) => {
      if (byId.get(record.id) !== record) return
      const moves = change.node !== undefined || 'move' in change
      if (moves) lift(record)
      Object.assign(record, change)
      if (moves) settle(record)
      write(record)
    },
    remove: (record) => {
      if (byId.get(record.id) !== record) return
      byId.delete(record.id)
      const name = nameKey(record)
      if (name !== undefined) byName.delete(name)
      outOf(byTenant, record.tenant, record)
      lift(record)
      note({ kind: KIND, id: record.id, value: undefined })
      note(epochs.document())
    },
    load: (documents) => {
      for (const { kind, value } of documents) {
        if (kind !== KIND) continue
        const record = value as InstanceRecord
        // What was written by an older version has the defaults of this one.
        index({ ...record, spec: instanceSpecSchema.parse(record.spec) })
      }
    },
    get size() {
      return byId.size
    },
  }
}

/** What was kept of it. */
export const snapshotsOf = ({ snapshot, olderSnapshot }: InstanceRecord): string[] =>
  [snapshot, olderSnapshot].filter((one) => one !== undefined)

const time = (ms: number): string => new Date(ms).toISOString()

/** `isAway`: its node is not there. */
export const recordView = (record: InstanceRecord, isAway: boolean): NetworkInstance => {
  const { id, spec, node, epoch, state, move, createdAt, snapshot, snapshotAt, message } = record
  return {
    id,
    ...(spec.name !== undefined && { name: spec.name }),
    node,
    epoch,
    status: state === 'starting' ? 'starting' : move ? 'moving' : isAway ? 'lost' : 'live',
    createdAt: time(createdAt),
    ...(snapshot !== undefined && { snapshotId: snapshot as NonNullable<NetworkInstance['snapshotId']> }),
    ...(snapshotAt !== undefined && { snapshotAt: time(snapshotAt) }),
    ...(message !== undefined && { message }),
  }
}
