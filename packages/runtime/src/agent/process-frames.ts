import type { FailedStep, ProcessExit } from './agent.ts'

const STEPS: readonly (FailedStep | undefined)[] = [undefined, 'fork', 'user', 'workdir', 'pipes', 'exec', 'connect']

/** The payload of an `EXIT`. Throws `Error` for what no agent says. */
export const parseExit = (payload: Buffer): ProcessExit => {
  const rusage = {
    userMicros: Number(payload.readBigUInt64LE(4)),
    systemMicros: Number(payload.readBigUInt64LE(12)),
    peakResidentBytes: Number(payload.readBigUInt64LE(20)),
  }
  const [kind, value] = [payload.readUInt8(0), payload.readUInt8(1)]
  if (kind === 0) return { kind: 'exited', code: value, rusage }
  if (kind === 1 && value >= 1 && value <= 64) return { kind: 'signalled', signal: value, rusage }
  throw new Error(`an EXIT of kind ${kind} with ${value}`)
}

/** The payload of a `FAILED`. Throws `Error` for what no agent says. */
export const parseFailed = (payload: Buffer): Extract<ProcessExit, { kind: 'failed' }> => {
  const step = STEPS[payload.readUInt8(4)]
  if (step === undefined) throw new Error('a FAILED with an unknown step')
  return { kind: 'failed', errno: payload.readUInt32LE(0), step, message: payload.toString('utf8', 5) }
}
