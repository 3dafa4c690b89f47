import type { Encoding } from '@bramble/protocol'
import { fromBase64, outputBytes } from './bytes.ts'
import { badResponse } from './failure.ts'

/** A piece of what a command wrote. A character of UTF-8 is never cut between two pieces. */
export class Output {
  readonly type: 'stdout' | 'stderr'
  /** As it came: text, or base64 where `encoding` says so. */
  readonly data: string
  readonly encoding: Encoding | undefined

  constructor(type: 'stdout' | 'stderr', data: string, encoding?: Encoding) {
    this.type = type
    this.data = data
    this.encoding = encoding
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return outputBytes(this.data, this.encoding)
  }

  /** What is no UTF-8 is shown as U+FFFD. */
  get text(): string {
    return this.encoding === 'base64' ? new TextDecoder().decode(fromBase64(this.data)) : this.data
  }
}

/** Output as a message has it, checked by hand: it is most of a stream, and a schema would double its cost. */
export const outputOf = (type: 'stdout' | 'stderr', message: Record<string, unknown>): Output => {
  const { data, encoding } = message
  if (typeof data !== 'string' || (encoding !== undefined && encoding !== 'utf8' && encoding !== 'base64'))
    throw badResponse(`an event ${type} has no data`)
  return new Output(type, data, encoding)
}
