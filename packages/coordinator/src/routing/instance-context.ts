import { BrambleError, type InstanceId, type InstanceSpec, type NodeId, parse, toBrambleError } from '@bramble/protocol'
import { z } from 'zod'
import { hasImage } from '../placement/needs.ts'
import type { NodeTable } from '../placement/placement.ts'
import type { Epochs } from './epochs.ts'
import { type InstanceRecord, type InstanceRecords, needOf } from './instance-records.ts'
import type { RoutingLimits } from './limits.ts'
import type { NodeWatch } from './node-watch.ts'

/** What the parts that place instances work on. */
export interface InstanceContext {
  readonly table: Pick<NodeTable, 'get' | 'free'>
  readonly watch: NodeWatch
  readonly records: InstanceRecords
  readonly epochs: Epochs
  readonly limits: RoutingLimits
  readonly turns: Turns
  readonly closing: AbortSignal
  now(): number
  schedule(ms: number, work: () => void): () => void
  durable(): Promise<void>
  request(node: NodeId, method: string, params: unknown, options?: { signal?: AbortSignal }): Promise<unknown>
}

/** Changes of one instance happen one after another. */
export interface Turns {
  /** `work` when all that was begun before is over. */
  take<T>(id: InstanceId, work: () => Promise<T>): Promise<T>
  has(id: InstanceId): boolean
  /** When nothing is under way any more. */
  settled(): Promise<void>
}

export const openTurns = (): Turns => {
  const last = new Map<InstanceId, Promise<unknown>>()
  return {
    take: (id, work) => {
      const turn = (last.get(id) ?? Promise.resolve()).then(work, work)
      const over = turn
        .catch(() => {})
        .then(() => {
          if (last.get(id) === over) last.delete(id)
        })
      last.set(id, over)
      return turn
    },
    has: (id) => last.has(id),
    settled: async () => {
      while (last.size > 0) await Promise.all(last.values())
    },
  }
}

/** Asks a node, and waits for so long; what is not an answer is `bad_response`. */
export const ask = async <S extends z.ZodType>(
  c: InstanceContext,
  node: NodeId,
  { method, params, timeoutMs, answer }: { method: string; params: unknown; timeoutMs: number; answer: S },
): Promise<z.output<S>> => {
  const controller = new AbortController()
  const cancel = c.schedule(timeoutMs, () =>
    controller.abort(
      new BrambleError('request_timeout', { detail: `${node} did not answer \`${method}\` within ${timeoutMs} ms` }),
    ),
  )
  try {
    const signal = AbortSignal.any([controller.signal, c.closing])
    const value = await c.request(node, method, params, { signal })
    try {
      return parse(answer, value)
    } catch (cause) {
      throw new BrambleError('bad_response', { detail: `the answer of ${node} to \`${method}\` is none`, cause })
    }
  } finally {
    cancel()
  }
}

const fitsOn = (c: InstanceContext, id: NodeId, spec: InstanceSpec): boolean => {
  const need = needOf(spec)
  const free = c.table.free(id)
  const node = c.table.get(id)
  if (!free || !node || free.memoryMb < need.memoryMb || free.gpus < need.gpus) return false
  if (node.report.cpus < spec.resources.cpus) return false
  return spec.isolation === undefined || node.report.isolation.includes(spec.isolation)
}

/**
 * Where an instance goes: the first node of its order that is here and has room, one that has its image before one that would
 * have to fetch it. With a snapshot, its image comes from the store.
 */
export const nodeFor = (
  c: InstanceContext,
  { id, tenant, spec, snapshot }: Pick<InstanceRecord, 'id' | 'tenant' | 'spec' | 'snapshot'>,
  not: ReadonlySet<NodeId>,
): NodeId | undefined => {
  const fits = (one: string): boolean =>
    c.watch.takesMore(one as NodeId) && !not.has(one as NodeId) && fitsOn(c, one as NodeId, spec)
  const hasIt = (one: string): boolean => {
    const node = c.table.get(one as NodeId)
    return node !== undefined && hasImage(node, { name: spec.image }) && fits(one)
  }
  const key = `${tenant}/${spec.name ?? id}`
  const { homes } = c.watch
  const local = snapshot === undefined ? homes.choose(key, { allowed: hasIt }) : undefined
  return (local ?? homes.choose(key, { allowed: fits })) as NodeId | undefined
}

export const noNodeFor = (spec: InstanceSpec, failure: unknown): BrambleError =>
  failure === undefined
    ? new BrambleError('no_node', {
        detail: `no node with a gateway is online that has ${spec.resources.memoryMb} MiB and ${spec.resources.cpus} processors for it`,
        retryAfterMs: 1000,
      })
    : toBrambleError(failure)

/** What is wrong with the request is wrong on every node. */
const FINAL: ReadonlySet<string> = new Set(['invalid_request', 'conflict', 'forbidden', 'shutting_down'])
export const isFinal = (error: unknown): boolean => FINAL.has(toBrambleError(error).code)

/** Tells a node to remove its copy. One that cannot be told now is told when it comes back. */
export const letGo = async (
  c: InstanceContext,
  node: NodeId,
  { id, epoch, forget = [] }: { id: InstanceId; epoch: number; forget?: readonly string[] },
): Promise<void> => {
  const { releaseTimeoutMs: timeoutMs } = c.limits
  await ask(c, node, {
    method: 'instances.release',
    params: { id, epoch, forget },
    timeoutMs,
    answer: z.unknown(),
  }).catch(() => {})
}
