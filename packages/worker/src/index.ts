export * from './node/open-worker.ts'
export { networkClock } from './session/network-clock.ts'
export { openSession } from './session/open-session.ts'
export type * from './session/session.ts'
