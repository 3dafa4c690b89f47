import { BrambleError } from '@bramble/protocol'
import type { Sandbox } from './runtime.ts'

const refuse = (what: string): Promise<never> =>
  Promise.reject(new BrambleError('unsupported', { detail: `this runtime does not offer ${what}` }))

/** Of a driver that cannot stop processes where they are. */
export const withoutPause: Pick<Sandbox, 'pause' | 'resume' | 'paused'> = {
  pause: () => refuse('pausing'),
  resume: () => Promise.resolve(),
  paused: false,
}
