import type { Bramble } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'
import { findInstance } from '../instances/find-instance.ts'

const SHORT_INSTANCE = /^ins_[0-9a-hjkmnp-tv-z]{1,25}$/

/**
 * What is meant by an id, a name, or a hash's beginning is for the node to find; the beginning of an instance's id (with
 * `ins_`) is made whole here.
 */
export const stateRef = async (bramble: Bramble, ref: string, signal?: AbortSignal): Promise<string> =>
  SHORT_INSTANCE.test(ref) ? (await findInstance(bramble, ref, signal)).id : ref

export const STATES_HINT = '`bramble ps --all` lists instances, `bramble snapshots` snapshots.'

/** Says where to look for what is not there. */
export const orNoState = async <T>(call: Promise<T>, hint = STATES_HINT): Promise<T> => {
  try {
    return await call
  } catch (error) {
    const { code, detail } = error as { code?: unknown; detail?: unknown }
    if (code !== 'not_found' || typeof detail !== 'string') throw error
    throw new ExitError(EXIT.failure, detail, hint)
  }
}

/** The same where only a snapshot can be meant. */
export const orNoSnapshot = <T>(call: Promise<T>): Promise<T> => orNoState(call, '`bramble snapshots` lists them.')
