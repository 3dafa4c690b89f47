import { BrambleError, toBrambleError } from '@bramble/protocol'
import type { Sealed } from '@bramble/runtime'
import type { Context } from './context.ts'
import type { Box, LiveInstance } from './live-instance.ts'

export interface SealWish {
  /** Of the seal. */
  readonly name: string
  /** Absent: with memory where that works. */
  readonly memory: boolean | undefined
  readonly signal: AbortSignal
}

/** Keeps the state of a sandbox as a seal. What runs in it goes on, and so does what its clients see. */
export const sealBox = async (
  { log }: Context,
  live: LiveInstance,
  { runtime, sandbox }: Box,
  { name, memory, signal }: SealWish,
): Promise<Sealed> => {
  const { capabilities } = runtime
  if (!capabilities.seals || !sandbox.seal)
    throw new BrambleError('unsupported', { detail: `the runtime \`${runtime.name}\` keeps no states of sandboxes` })
  if (memory === true && !capabilities.checkpoint)
    throw new BrambleError('unsupported', { detail: `the runtime \`${runtime.name}\` of this host cannot save memory` })
  if (memory === false || !capabilities.checkpoint) return await sandbox.seal({ name, memory: false, signal })
  try {
    return await sandbox.seal({ name, memory: true, signal })
  } catch (error) {
    if (memory === true || toBrambleError(error).code !== 'checkpoint_refused') throw error
    log.info({ err: error, instance: live.id }, 'the memory of an instance cannot be saved as it is: its files are')
    return await sandbox.seal({ name, memory: false, signal })
  }
}
