import { BrambleError, type StreamEvent, streamEventSchema } from '@bramble/protocol'
import { badResponse } from '../failure.ts'
import { type Output, outputOf } from '../output.ts'
import { checked, parseJson } from '../transport.ts'

type Other = Exclude<StreamEvent, { type: 'stdout' | 'stderr' }>

/** Output of a command of the instance, whoever started it. */
export interface CommandOutput {
  readonly type: 'stdout' | 'stderr'
  readonly seq: number
  readonly id: string
  readonly output: Output
}

/** What a stream of an instance tells. */
export type InstanceEvent = CommandOutput | Other
export type FileEvent = Extract<StreamEvent, { type: 'file_event' }>
export type StateEvent = Extract<StreamEvent, { type: 'state' }>
export type CustomEvent = Extract<StreamEvent, { type: 'custom' }>

const KNOWN = new Set<string>(streamEventSchema.options.map(({ shape }) => shape.type.value))

/** One message of the stream, checked; undefined for one of a kind that is not known. */
export const instanceEventOf = (message: string | Uint8Array): InstanceEvent | undefined => {
  if (typeof message !== 'string') throw badResponse('a message of the stream is not text')
  const value = parseJson(message, 'the stream') as Record<string, unknown> | null
  const type = value?.type
  if (value === null || typeof type !== 'string') throw badResponse('a message of the stream has no type')
  if (type === 'stdout' || type === 'stderr') {
    const { seq, id } = value
    if (typeof seq !== 'number' || typeof id !== 'string') throw badResponse(`an event ${type} has no seq or no id`)
    return { type, seq, id, output: outputOf(type, value) }
  }
  if (!KNOWN.has(type)) return undefined
  return checked(streamEventSchema, value, `the event ${type}`) as Other
}

export const errorOf = (event: Extract<StreamEvent, { type: 'error' }>): BrambleError =>
  new BrambleError(event.code, { detail: event.message })
