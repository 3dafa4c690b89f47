import {
  BrambleError,
  type Instance,
  type InstanceSpec,
  instanceSchema,
  LIMITS,
  type NodeId,
  newId,
} from '@bramble/protocol'
import { ask, type InstanceContext, isFinal, letGo, nodeFor, noNodeFor } from './instance-context.ts'
import type { InstanceRecord } from './instance-records.ts'

const refuse = (code: 'invalid_request' | 'conflict' | 'quota_exceeded' | 'queue_full', detail: string): never => {
  throw new BrambleError(code, { detail })
}

/** Throws where the network cannot have it, whatever its nodes say. */
const assertPossible = ({ records, limits }: InstanceContext, spec: InstanceSpec, tenant: string): void => {
  if (spec.volumes.length > 0)
    refuse('invalid_request', '`volumes` belong to one node: an instance of a network has none')
  if (spec.name !== undefined && records.find(spec.name, tenant))
    refuse('conflict', `there is an instance \`${spec.name}\` already: delete it, or choose another name`)
  if (records.ofTenant(tenant).size >= limits.maxTenantInstances)
    refuse('quota_exceeded', `the tenant has ${limits.maxTenantInstances} instances already: delete some`)
  if (records.size >= limits.maxInstances)
    refuse('queue_full', `the network has ${limits.maxInstances} instances, and keeps no more`)
  if (Object.keys(spec.labels).length > LIMITS.maxLabels.value) refuse('invalid_request', 'it has too many labels')
}

/**
 * Makes an instance on the first node of its order that takes it. The intent is durable before a node is asked, so that a
 * coordinator that dies in between leaves nothing that nobody knows of.
 */
export const startInstance = (
  c: InstanceContext,
  spec: InstanceSpec,
  tenant: string,
  random?: (bytes: Uint8Array<ArrayBuffer>) => void,
): Promise<{ instance: Instance; record: InstanceRecord }> => {
  assertPossible(c, spec, tenant)
  const id = newId('instance', { now: c.now, ...(random && { random }) })
  const tried = new Set<NodeId>()
  const first = nodeFor(c, { id, tenant, spec }, tried)
  if (first === undefined) throw noNodeFor(spec, undefined)
  const record: InstanceRecord = {
    ...{ id, tenant, spec, node: first, epoch: c.epochs.next(), createdAt: c.now(), state: 'starting' },
  }
  c.records.add(record)
  return c.turns.take(id, async () => {
    try {
      for (;;) {
        tried.add(record.node)
        await c.durable()
        const { node, epoch } = record
        try {
          const instance = await ask(c, node, {
            method: 'instances.start',
            params: { id, epoch, tenant, spec },
            timeoutMs: c.limits.startTimeoutMs,
            answer: instanceSchema,
          })
          c.records.change(record, { state: 'live' })
          await c.durable()
          return { instance, record }
        } catch (error) {
          void letGo(c, node, { id, epoch })
          const next = isFinal(error) || tried.size >= c.limits.maxTries ? undefined : nodeFor(c, record, tried)
          if (next === undefined) throw noNodeFor(spec, error)
          c.records.change(record, { node: next, epoch: c.epochs.next() })
        }
      }
    } catch (error) {
      c.records.remove(record)
      throw error
    }
  })
}
