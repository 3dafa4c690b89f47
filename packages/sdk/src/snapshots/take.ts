import { newId, type Snapshot, type SnapshotRequestInput, snapshotSchema } from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import { SDK_LIMITS } from '../limits.ts'
import type { Request, Transport } from '../transport.ts'

/** `memory: true` insists on the processes, `false` leaves them out; without it they are there where that works. */
export type SnapshotOptions = SnapshotRequestInput & CallOptions

/** A POST that makes something: sent again under one key until it is answered, and done once. It may take long. */
export const making = (path: string, body: unknown, options: CallOptions): Request & { idempotencyKey(): string } => {
  const key = newId('request')
  return {
    method: 'POST',
    path,
    body,
    repeatable: true,
    idempotencyKey: () => key,
    requestTimeoutMs: SDK_LIMITS.snapshotTimeoutMs,
    ...options,
  }
}

/** Takes a snapshot of the instance whose path that is. */
export const takeSnapshot = (
  transport: Transport,
  instancePath: string,
  { signal, requestTimeoutMs, ...body }: SnapshotOptions = {},
): Promise<Snapshot> =>
  transport.json(making(`${instancePath}/snapshot`, body, given({ signal, requestTimeoutMs })), snapshotSchema)

/** Options without those that are undefined, which would hide a default. */
export const given = (options: CallOptions): CallOptions =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
