import { z } from 'zod'
import { instanceIdSchema } from './ids.ts'
import { instanceNameSchema, instanceSpecSchema, instanceStatusSchema } from './instances.ts'
import { nodeIdSchema } from './receipts.ts'
import { blobHashSchema } from './snapshot-manifest.ts'

/**
 * Users and instances that a network places on its nodes: what clients ask a coordinator, and what the coordinator asks a
 * node (`request` frames).
 *
 * Each placement has an *epoch*, larger than all before it. A node that holds an instance at a lower epoch than the network's
 * holds a stale copy: the network tells it to let go as soon as it can be reached.
 */

/** An instance as the coordinator knows it; its node knows more. */
export const networkInstanceSchema = z.object({
  id: instanceIdSchema,
  name: instanceNameSchema.optional(),
  node: nodeIdSchema,
  epoch: z.number().int(),
  /** `lost`: its node is gone, and it is not back on another one yet. */
  status: z.enum(['starting', 'live', 'moving', 'lost']),
  createdAt: z.string(),
  /** What it comes back from where its node is lost. Absent: from its spec, as it began. */
  snapshotId: blobHashSchema.optional(),
  snapshotAt: z.string().optional(),
  /** Why it is not live. */
  message: z.string().optional(),
})
export type NetworkInstance = z.infer<typeof networkInstanceSchema>
export const networkInstancesSchema = z.object({
  items: z.array(networkInstanceSchema),
  nextCursor: z.string().nullable(),
})

const epoch = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER)
/** Of the instance, and not needed any more. */
const snapshots = z.array(blobHashSchema).max(16).default([])
const held = { id: instanceIdSchema, epoch }

/** `instances.start`: make and start it. Again, for one that it holds at that epoch: as it is. Answers with the instance. */
export const startPlacedSchema = z.strictObject({
  ...held,
  tenant: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'is not a tenant name (a-z, 0-9, -)'),
  spec: instanceSpecSchema,
})
/** `instances.restore`: the same, with the files of a snapshot of the shared tier. */
export const restorePlacedSchema = startPlacedSchema.extend({ snapshot: blobHashSchema })

/**
 * `instances.snapshot`: its files, into the shared tier; answers when they are there. `fence`: first, tokens of its route are
 * refused, since it is about to go on elsewhere; without, they are taken again.
 */
export const snapshotPlacedSchema = z.strictObject({
  ...held,
  fence: z.boolean().default(false),
  forget: snapshots,
})
export const snapshotPlacedAnswerSchema = z.object({
  status: instanceStatusSchema,
  /** Absent: it has no state to keep now (it is stopped). */
  snapshot: blobHashSchema.optional(),
  /** Whether other nodes can read it. */
  shared: z.boolean(),
})

/** `instances.release`: remove it, if it is held at that epoch or a lower one; and those snapshots. Safe twice. */
export const releasePlacedSchema = z.strictObject({ ...held, forget: snapshots })

/**
 * `instances.list`: tells the node which of those that it holds are its own, and asks for all of them. Tokens for others are
 * refused from here on; and for all, once the network was away for `fenceMs`, until it says so again.
 */
export const listPlacedSchema = z.strictObject({
  keep: z.array(z.strictObject(held)).max(10_000),
  fenceMs: z.number().int().min(0),
})
/** `gone`: its tenant deleted it there, or its time was over. */
export const heldInstancesSchema = z.object({
  items: z
    .array(z.object({ ...held, fenced: z.boolean(), status: z.union([instanceStatusSchema, z.literal('gone')]) }))
    .max(100_000),
})
export type HeldInstance = z.infer<typeof heldInstancesSchema>['items'][number]

/** Whose a network's work is on a node: no tenant of one network is that of another, nor one of the node's own keys (no key's tenant has a dot). */
export const tenantOnNode = (network: string, tenant: string): string => `bramble.${network.slice(2, 14)}.${tenant}`
