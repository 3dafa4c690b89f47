import type { Bramble } from '@bramble/sdk'
import { findInstance } from '../instances/find-instance.ts'

const SHORT_INSTANCE = /^ins_[0-9a-hjkmnp-tv-z]{1,25}$/

/**
 * What is meant by an id, a name, or a hash's beginning is for the node to find; the beginning of an instance's id (with
 * `ins_`) is made whole here.
 */
export const stateRef = async (bramble: Bramble, ref: string, signal?: AbortSignal): Promise<string> =>
  SHORT_INSTANCE.test(ref) ? (await findInstance(bramble, ref, signal)).id : ref
