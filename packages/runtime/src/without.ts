import { BrambleError } from '@bramble/protocol'
import type { AgentLog } from './agent/agent.ts'
import type { Runtime, Sandbox } from './runtime.ts'

const refuse = (what: string): Promise<never> =>
  Promise.reject(new BrambleError('unsupported', { detail: `this runtime does not offer ${what}` }))

/** Of a driver whose sandboxes all end with their process. */
export const withoutKeep: Pick<Runtime, 'attach' | 'layers'> = {
  attach: () => refuse('kept sandboxes'),
  layers: {
    list: () => Promise.resolve([]),
    usedBytes: () => Promise.resolve(0),
    remove: () => Promise.resolve(),
  },
}

/** Of a driver that cannot stop processes where they are. */
export const withoutPause: Pick<Sandbox, 'pause' | 'resume' | 'paused'> = {
  pause: () => refuse('pausing'),
  resume: () => Promise.resolve(),
  paused: false,
}

/** Of an agent whose commands all end with the connection. */
export const withoutLog: AgentLog = {
  firstSeq: 1,
  firstNewSeq: 1,
  nextSeq: 1,
  commands: new Map(),
  start: () => {
    throw new BrambleError('unsupported', { detail: 'this runtime does not offer named commands' })
  },
  read: () => {},
  acknowledge: () => {},
}
