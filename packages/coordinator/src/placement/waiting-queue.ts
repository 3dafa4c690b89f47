import type { JobId } from '@bramble/protocol'
import { Base } from './blocked-shapes.ts'
import { Heap, type Heaped } from './heap.ts'
import { milliCpusOf } from './needs.ts'
import type { WaitingQueue } from './placement.ts'
import { splitShape } from './shape.ts'

/** How much earlier a job counts as submitted for each point of its priority. */
const PRIORITY_MS = 10_000
const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz'

interface Tenant extends Heaped {
  readonly name: string
  /** Virtual time at which it is served next: it grows by the cost of what it is given. */
  tag: number
  readonly groups: Heap<Group>
  readonly groupOf: Map<string, Group>
  readonly bucketOf: Map<string, Bucket>
}

/** Jobs of one tenant and one base. */
interface Group extends Heaped {
  readonly tenant: Tenant
  readonly base: Base<Group>
  readonly buckets: Heap<Bucket>
  /** Those that nothing which came free can help. */
  readonly parked: Set<Bucket>
}

/** Jobs of one tenant and one shape. */
interface Bucket extends Heaped {
  readonly group: Group
  readonly shape: string
  readonly apart: ReturnType<typeof splitShape>['read']['apart']
  readonly jobs: Heap<Entry>
  blockedAt: number
}

interface Entry extends Heaped {
  readonly id: JobId
  readonly bucket: Bucket
  readonly rank: number
  readonly cost: number
}

/** Ids begin with the time at which they were made: 10 digits of base 32, in milliseconds. */
const submittedAt = (id: JobId): number => {
  let time = 0
  for (let at = id.indexOf('_') + 1, end = at + 10; at < end; at++) time = time * 32 + DIGITS.indexOf(id[at] ?? '0')
  return time
}

const isEarlier = (a: Entry | undefined, b: Entry | undefined): boolean => {
  if (a === undefined || b === undefined) return a !== undefined
  return a.rank < b.rank || (a.rank === b.rank && a.id < b.id)
}
const firstOf = (group: Group): Entry | undefined => group.buckets.top?.jobs.top

export const waitingQueue = (): WaitingQueue => {
  const entries = new Map<JobId, Entry>()
  const tenants = new Map<string, Tenant>()
  const bases = new Map<string, Base<Group>>()
  /** Tenants with something that may be tried. */
  const turns = new Heap<Tenant>((a, b) => a.tag < b.tag || (a.tag === b.tag && a.name < b.name))
  let virtualTime = 0
  let offered: Entry | undefined
  let sweepAt = 64

  const tenantOf = (name: string): Tenant => {
    const known = tenants.get(name)
    if (known !== undefined) return known
    if (tenants.size >= sweepAt) {
      // One that has had more than its share is remembered until the others have caught up.
      for (const idle of tenants.values())
        if (idle.bucketOf.size === 0 && idle.tag <= virtualTime) tenants.delete(idle.name)
      sweepAt = 2 * tenants.size + 64
    }
    const groups = new Heap<Group>((a, b) => isEarlier(firstOf(a), firstOf(b)))
    const tenant: Tenant = { name, tag: 0, groups, groupOf: new Map(), bucketOf: new Map(), heapAt: -1 }
    tenants.set(name, tenant)
    return tenant
  }

  const bucketOf = (tenant: Tenant, shape: string): Bucket => {
    const known = tenant.bucketOf.get(shape)
    if (known !== undefined) return known
    const { base: key, read } = splitShape(shape)
    const base = bases.get(key) ?? new Base<Group>(key, read.base)
    bases.set(key, base)
    let group = tenant.groupOf.get(key)
    if (group === undefined) {
      const buckets = new Heap<Bucket>((a, b) => isEarlier(a.jobs.top, b.jobs.top))
      group = { tenant, base, buckets, parked: new Set(), heapAt: -1 }
      tenant.groupOf.set(key, group)
      base.groups.add(group)
    }
    const jobs = new Heap<Entry>(isEarlier)
    const bucket: Bucket = { group, shape, apart: read.apart, jobs, blockedAt: -1, heapAt: -1 }
    tenant.bucketOf.set(shape, bucket)
    return bucket
  }

  /** Lets a group be tried again, in its tenant's turn. */
  const wake = (group: Group): void => {
    const { tenant } = group
    if (group.heapAt < 0) tenant.groups.push(group)
    else tenant.groups.moved(group)
    if (tenant.heapAt >= 0) return
    tenant.tag = Math.max(tenant.tag, virtualTime)
    turns.push(tenant)
  }

  /** After its jobs changed: it moves, comes to life, or is forgotten. */
  const settle = (bucket: Bucket): void => {
    const { group } = bucket
    const { tenant, base } = group
    if (bucket.jobs.size > 0) {
      if (group.parked.has(bucket)) return
      if (bucket.heapAt < 0) group.buckets.push(bucket)
      else group.buckets.moved(bucket)
      // A group that waits for room as a whole stays out of the way.
      if (group.heapAt >= 0 || !base.isFull) wake(group)
      return
    }
    group.buckets.delete(bucket)
    group.parked.delete(bucket)
    tenant.bucketOf.delete(bucket.shape)
    tenant.groups.moved(group)
    if (group.buckets.size + group.parked.size > 0) return
    tenant.groups.delete(group)
    tenant.groupOf.delete(base.key)
    base.groups.delete(group)
    if (base.groups.size === 0) bases.delete(base.key)
  }

  const take = (entry: Entry): void => {
    entries.delete(entry.id)
    entry.bucket.jobs.delete(entry)
    settle(entry.bucket)
    if (offered === entry) offered = undefined
  }

  /** The bucket whose job is next in its tenant's order; what cannot be served now is put aside on the way. */
  const pick = (tenant: Tenant): Bucket | undefined => {
    for (let group = tenant.groups.top; group !== undefined; group = tenant.groups.top) {
      const bucket = group.base.isFull ? undefined : group.buckets.top
      if (bucket === undefined) tenant.groups.delete(group)
      else if (group.base.mayServe(bucket.apart, bucket.blockedAt)) return bucket
      else {
        group.buckets.delete(bucket)
        group.parked.add(bucket)
        tenant.groups.moved(group)
      }
    }
    return undefined
  }

  return {
    add(id, name, priority, shape, cost) {
      const known = entries.get(id)
      if (known !== undefined) take(known)
      const bucket = bucketOf(tenantOf(name), shape)
      const rank = submittedAt(id) - priority * PRIORITY_MS
      const entry: Entry = { id, bucket, rank, cost: Math.max(cost, 0.001), heapAt: -1 }
      entries.set(id, entry)
      bucket.jobs.push(entry)
      settle(bucket)
    },

    remove(id) {
      const entry = entries.get(id)
      if (entry !== undefined) take(entry)
    },

    next() {
      for (let tenant = turns.top; tenant !== undefined; tenant = turns.top) {
        const entry = pick(tenant)?.jobs.top
        if (entry === undefined) {
          turns.delete(tenant)
          continue
        }
        virtualTime = Math.max(virtualTime, tenant.tag)
        tenant.tag += entry.cost
        turns.moved(tenant)
        offered = entry
        return entry.id
      }
      return undefined
    },

    block(id, full = false) {
      const entry = entries.get(id)
      if (entry === undefined) return
      const { bucket } = entry
      const { group } = bucket
      bucket.blockedAt = group.base.serial
      group.base.isBlocked = true
      if (full) group.base.fill()
      if (offered !== entry) return
      offered = undefined
      group.tenant.tag -= entry.cost
      turns.moved(group.tenant)
    },

    unblock(node, free) {
      const room = free && { ...free, milliCpus: milliCpusOf(free.cpus) }
      for (const base of bases.values()) {
        if (!base.freed(node, room)) continue
        for (const group of base.groups) {
          for (const bucket of group.parked) {
            if (!base.mayServe(bucket.apart, bucket.blockedAt)) continue
            group.parked.delete(bucket)
            group.buckets.push(bucket)
          }
          if (group.buckets.size > 0) wake(group)
        }
      }
    },

    get size() {
      return entries.size
    },
  }
}
