import { createIdentity, nobleCurve, readRouteToken } from '@bramble/identity'
import {
  BrambleError,
  type InstanceSpec,
  instanceSpecSchema,
  listPlacedSchema,
  type NodeId,
  type NodeStatus,
  nodeReportSchema,
  releasePlacedSchema,
  restorePlacedSchema,
  snapshotPlacedSchema,
  startPlacedSchema,
} from '@bramble/protocol'
import { onTestFinished } from 'vitest'
import { nodeTable } from '../placement/node-table.ts'
import type { RoutingLimits } from '../routing/limits.ts'
import { openRouting, type Routing } from '../routing/open-routing.ts'
import type { Document } from '../store/store.ts'

export const NETWORK = `0x${'ab'.repeat(32)}`
export const identity = createIdentity(new Uint8Array(32).fill(7), nobleCurve)
export const caller = { tenant: 'acme', scopes: ['execute', 'read'] as const }
export const idOf = (index: number): NodeId => `0x${index.toString(16).padStart(40, '0')}` as NodeId
export const spec = (input: Partial<InstanceSpec> = {}) =>
  instanceSpecSchema.parse({ image: 'base', resources: { memoryMb: 256 }, ...input })

/** A clock that stands still but when it is told to go on. */
const virtualTime = () => {
  let now = Date.parse('2026-01-01T00:00:00Z')
  const timers = new Set<{ at: number; work: () => void }>()
  const settle = async () => {
    for (let i = 0; i < 200; i++) await Promise.resolve()
  }
  return {
    now: () => now,
    schedule: (ms: number, work: () => void) => {
      const timer = { at: now + ms, work }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
    advance: async (ms: number) => {
      const end = now + ms
      for (;;) {
        await settle()
        const [next] = [...timers].filter(({ at }) => at <= end).sort((left, right) => left.at - right.at)
        if (!next) break
        timers.delete(next)
        now = Math.max(now, next.at)
        next.work()
      }
      now = end
      await settle()
    },
  }
}

interface Held {
  epoch: number
  files: string
  fenced: boolean
  gone?: boolean
}

/** What a worker answers, over instances whose files are a text; all nodes share one store of snapshots. */
class Node {
  readonly held = new Map<string, Held>()
  readonly asked: string[] = []
  /** What it was told last to be its own. */
  own: readonly { id: string; epoch: number }[] = []
  isConnected = true
  refuses: BrambleError | undefined
  readonly store: Map<string, string>

  constructor(store: Map<string, string>) {
    this.store = store
  }

  answer(method: string, params: unknown): unknown {
    this.asked.push(method)
    if (this.refuses && method !== 'instances.list') throw this.refuses
    switch (method) {
      case 'instances.start':
        return this.#make(startPlacedSchema.parse(params), '')
      case 'instances.restore': {
        const request = restorePlacedSchema.parse(params)
        const files = this.store.get(request.snapshot)
        if (files === undefined) throw new BrambleError('not_found', { detail: 'no such snapshot' })
        return this.#make(request, files)
      }
      case 'instances.snapshot': {
        const { id, epoch, fence, forget } = snapshotPlacedSchema.parse(params)
        const held = this.held.get(id)
        if (held?.epoch !== epoch) throw new BrambleError('not_found', { detail: 'it is not held' })
        held.fenced = fence
        for (const snapshot of forget) this.store.delete(snapshot)
        const snapshot = Buffer.from(`${id.slice(-8)}${held.files}`)
          .toString('hex')
          .padEnd(64, '0')
          .slice(0, 64)
        this.store.set(snapshot, held.files)
        return { status: 'running', snapshot, shared: true }
      }
      case 'instances.release': {
        const { id, epoch, forget } = releasePlacedSchema.parse(params)
        const held = this.held.get(id)
        if (held && held.epoch <= epoch) {
          this.held.delete(id)
          for (const snapshot of forget) this.store.delete(snapshot)
        }
        return {}
      }
      case 'instances.list':
        this.own = listPlacedSchema.parse(params).keep
        return {
          items: [...this.held].map(([id, { epoch, fenced, gone }]) => ({
            ...{ id, epoch, fenced },
            status: gone ? 'gone' : 'running',
          })),
        }
      default:
        throw new BrambleError('not_found', { detail: method })
    }
  }

  #make({ id, epoch, spec }: { id: string; epoch: number; spec: InstanceSpec }, files: string) {
    this.held.set(id, { epoch, files, fenced: false })
    return {
      ...{ id, status: 'running', image: spec.image, imageDigest: 'sha256:0', runtime: 'fake' },
      ...{ resources: spec.resources, network: spec.network, volumes: [], caches: [], labels: {} },
      ...{ createdAt: new Date(0).toISOString(), expiresAt: null, idleTtlMs: null },
      ...{ idleAction: spec.idleAction, autoResume: spec.autoResume },
    }
  }
}

/** Routing over nodes that are played by the test, by a clock of its own. */
export const routedNetwork = (count: number, limits: Partial<RoutingLimits> = {}) => {
  const time = virtualTime()
  const documents = new Map<string, Document>()
  const table = nodeTable({ random: () => 0.5 })
  const store = new Map<string, string>()
  const nodes = new Map<NodeId, Node>()
  /** Noted and not yet durable. */
  let gathered: Document[] = []
  const set = (id: NodeId, status: NodeStatus, report: { cpus?: number; memoryMb?: number } = {}) =>
    table.set({
      ...{ id, owner: id, subnet: id, status, established: true, agreements: 10, trust: 1, speed: 1, maxRunning: 8 },
      report: nodeReportSchema.parse({
        ...{ version: '1', cpus: 4, memoryMb: 8192, diskMb: 1000, slots: 8, isolation: ['container'] },
        ...{ machine: id, platform: 'test', url: `http://${id}.test`, images: [{ name: 'base', digest: 'sha256:0' }] },
        ...report,
      }),
    })
  for (let i = 1; i <= count; i++) {
    nodes.set(idOf(i), new Node(store))
    set(idOf(i), 'online')
  }
  const open = (): Routing => {
    const routing = openRouting({
      ...{ network: NETWORK, identity, table, now: time.now, schedule: time.schedule, limits },
      nodes: () => [...nodes.keys()].map((id) => ({ id })),
      note: (document) => gathered.push(structuredClone(document)),
      durable: async () => {
        const batch = gathered
        gathered = []
        await Promise.resolve()
        for (const document of batch) {
          const key = `${document.kind} ${document.id}`
          if (document.value === undefined) documents.delete(key)
          else documents.set(key, document)
        }
      },
      request: async (id, method, params, { signal } = {}) => {
        const node = nodes.get(id)
        signal?.throwIfAborted()
        if (!node?.isConnected) throw new BrambleError('no_node', { detail: 'the node went away' })
        await Promise.resolve()
        return node.answer(method, structuredClone(params))
      },
    })
    routing.load(documents.values())
    onTestFinished(() => routing.close())
    return routing
  }
  const node = (id: NodeId): Node => {
    const found = nodes.get(id)
    if (!found) throw new Error(`no node ${id}`)
    return found
  }
  const lose = (id: NodeId) => {
    node(id).isConnected = false
    set(id, 'suspect')
  }
  const comeBack = (routing: Routing, id: NodeId) => {
    node(id).isConnected = true
    set(id, 'online')
    routing.nodeBack(id)
  }
  return { time, documents, nodes, node, set, open, lose, comeBack, store }
}

/** What a token says. */
export const claimsOf = (token: string, nowMs: number) => readRouteToken(token, identity.publicKey, nobleCurve, nowMs)
