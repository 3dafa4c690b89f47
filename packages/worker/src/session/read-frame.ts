import {
  type CoordinatorFrame,
  coordinatorFrameSchema,
  type Lease,
  type LeaseRef,
  leaseRefSchema,
  leaseSchema,
} from '@bramble/protocol'

/** What a frame of a coordinator says; `refused`: leases in it that this worker does not understand. */
export interface ReadFrame {
  readonly frame: CoordinatorFrame | undefined
  readonly refused: readonly { readonly lease: LeaseRef; readonly message: string }[]
}

const NOTHING: ReadFrame = { frame: undefined, refused: [] }

const readLeases = (items: readonly unknown[]): ReadFrame => {
  const leases: Lease[] = []
  const refused: { lease: LeaseRef; message: string }[] = []
  for (const item of items) {
    const read = leaseSchema.safeParse(item)
    if (read.success) {
      leases.push(read.data)
      continue
    }
    const named = leaseRefSchema.safeParse({
      execution: (item as LeaseRef | null)?.execution,
      token: (item as LeaseRef | null)?.token,
    })
    const [issue] = read.error.issues
    if (named.success)
      refused.push({ lease: named.data, message: `${issue?.path.join('.') ?? 'the lease'}: ${issue?.message ?? ''}` })
  }
  return { frame: { type: 'lease', items: leases }, refused }
}

/**
 * Reads the text of a frame. A coordinator may be newer than this worker: what is not known is passed over, but a lease that is
 * not understood is given back.
 */
export const readFrame = (text: string): ReadFrame => {
  const value: unknown = JSON.parse(text)
  if (typeof value !== 'object' || value === null || !('type' in value)) return NOTHING
  if (value.type === 'lease' && 'items' in value && Array.isArray(value.items)) return readLeases(value.items)
  const read = coordinatorFrameSchema.safeParse(value)
  return read.success ? { frame: read.data, refused: [] } : NOTHING
}
