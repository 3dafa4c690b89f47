import { BrambleError } from '@bramble/protocol'

const CODES: readonly string[] = ['not_leader', 'connection_failed', 'shutting_down', 'store_unavailable']

/** Whether the coordinator that writes, or the way to it, is the matter, and not what was asked of it. */
export const isLost = (error: unknown): boolean => error instanceof BrambleError && CODES.includes(error.code)
