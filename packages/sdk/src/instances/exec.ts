import {
  BrambleError,
  DEFAULT_RESOURCES,
  type ExecRequestInput,
  type ExecResult,
  execResultSchema,
  problemSchema,
} from '@bramble/protocol'
import { joinBytes, toBase64 } from '../bytes.ts'
import type { CallOptions } from '../call.ts'
import type { FileContent } from '../execution-builder.ts'
import { badResponse, CommandFailedError } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type Output, outputOf } from '../output.ts'
import { endedEarly, ResultStream } from '../result-stream.ts'
import type { SseMessage } from '../sse.ts'
import { checked, parseJson, type Request, type Transport } from '../transport.ts'

export interface ExecOptions extends CallOptions, Omit<ExecRequestInput, 'command' | 'stdin'> {
  /** All of its standard input. One that is written while the command runs: `stream()`'s `exec`. */
  readonly stdin?: FileContent | undefined
  /** True: a command that does not succeed is a `CommandFailedError` instead of a result. */
  readonly check?: boolean | undefined
}

export type ExecEvent =
  | { readonly type: 'started'; readonly pid?: number | undefined }
  | Output
  | { readonly type: 'exit'; readonly code: number | null; readonly signal?: string | undefined }
  | { readonly type: 'result'; readonly result: ExecResult }

/** A command in an instance as it runs. Leaving its iteration early ends the command. */
export type ExecStream = ResultStream<ExecEvent, ExecResult>

/** What an exec needs of its instance. */
export interface ExecPlace {
  readonly transport: Transport
  /** Of the instance, below `/`. */
  readonly path: string
  /** How long its commands may run where they do not say. */
  readonly timeoutMs: number | undefined
  /** How much of each stream of theirs is kept where they do not say. */
  readonly maxOutputBytes: number | undefined
}

/**
 * A command for an instance. Nothing is sent until it is awaited (then the result comes at the end), streamed, or asked for
 * its text; and it is sent once, however often it is awaited.
 */
export class InstanceExec implements PromiseLike<ExecResult> {
  readonly #place: ExecPlace
  readonly #command: string | string[]
  readonly #options: ExecOptions
  #sent: Promise<ExecResult> | undefined

  constructor(place: ExecPlace, command: string | string[], options: ExecOptions = {}) {
    this.#place = place
    this.#command = command
    this.#options = options
  }

  /** Runs it; gives its output as it comes, and the result at the end. */
  stream(): ExecStream {
    const request = this.#request()
    const open = (signal: AbortSignal) => this.#place.transport.stream({ ...request, signal })
    return new ResultStream({ open, eventOf: execEventOf, resultOf }, this.#options)
  }

  /** What it writes on standard output, once it has succeeded; else a `CommandFailedError`. */
  async text(): Promise<string> {
    const result = await this
    if (result.status !== 'succeeded') throw new CommandFailedError(result)
    return result.encoding === 'base64'
      ? outputOf('stdout', { data: result.stdout, encoding: 'base64' }).text
      : result.stdout
  }

  // biome-ignore lint/suspicious/noThenProperty: it is awaited for its result and can be streamed instead.
  then<A = ExecResult, B = never>(
    onResult?: ((result: ExecResult) => A | PromiseLike<A>) | null,
    onError?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#sent ??= this.#send()
    return this.#sent.then(onResult, onError)
  }

  catch<B = never>(onError?: ((error: unknown) => B | PromiseLike<B>) | null): Promise<ExecResult | B> {
    return this.then(undefined, onError)
  }

  finally(onEnd?: (() => void) | null): Promise<ExecResult> {
    return this.then().finally(onEnd)
  }

  async #collect(): Promise<ExecResult> {
    const maxBytes = this.#options.maxOutputBytes ?? this.#place.maxOutputBytes ?? DEFAULT_RESOURCES.maxOutputBytes
    const left = { stdout: maxBytes, stderr: maxBytes }
    const pieces: Output[] = []
    let truncated = false
    for await (const event of this.stream()) {
      if (event.type === 'result') return withOutput(event.result, pieces, truncated)
      if (event.type !== 'stdout' && event.type !== 'stderr') continue
      const { length } = event.bytes
      if (length <= left[event.type]) pieces.push(event)
      else truncated = true
      left[event.type] = Math.max(0, left[event.type] - length)
    }
    throw endedEarly()
  }

  get #timeoutMs(): number {
    return this.#options.timeoutMs ?? this.#place.timeoutMs ?? DEFAULT_RESOURCES.timeoutMs
  }

  #request(): Request {
    const { signal, requestTimeoutMs, check: _check, stdin, ...rest } = this.#options
    return {
      method: 'POST',
      path: `${this.#place.path}/exec`,
      body: {
        ...rest,
        command: this.#command,
        ...(stdin !== undefined && { stdin: typeof stdin === 'string' ? stdin : { base64: toBase64(stdin) } }),
      },
      signal,
      requestTimeoutMs: requestTimeoutMs ?? this.#timeoutMs + SDK_LIMITS.executionGraceMs,
    }
  }

  /** One that may run long is asked for as a stream, whose heartbeats keep the connection alive. */
  async #send(): Promise<ExecResult> {
    const isLong = this.#timeoutMs > SDK_LIMITS.longExecutionMs
    const result = isLong ? await this.#collect() : await this.#place.transport.json(this.#request(), execResultSchema)
    if (this.#options.check === true && result.status !== 'succeeded') throw new CommandFailedError(result)
    return result
  }
}

/** The result of a stream has no output: it went by before. */
const withOutput = (result: ExecResult, pieces: readonly Output[], truncated: boolean): ExecResult => {
  const encoding = pieces.some((piece) => piece.encoding === 'base64') ? 'base64' : 'utf8'
  const joined = (type: Output['type']): string => {
    const own = pieces.filter((piece) => piece.type === type)
    return encoding === 'utf8'
      ? own.map(({ data }) => data).join('')
      : toBase64(joinBytes(own.map(({ bytes }) => bytes)))
  }
  return {
    ...result,
    encoding,
    stdout: joined('stdout'),
    stderr: joined('stderr'),
    truncated: truncated || result.truncated,
  }
}

const resultOf = (event: ExecEvent): ExecResult | undefined => (event.type === 'result' ? event.result : undefined)

const execEventOf = ({ data }: SseMessage): ExecEvent | undefined => {
  const value = parseJson(data, 'the stream') as Record<string, unknown> | null
  const type = value?.type
  if (value === null || typeof type !== 'string') throw badResponse('an event of the stream has no type')
  switch (type) {
    case 'stdout':
    case 'stderr':
      return outputOf(type, value)
    case 'started':
    case 'exit':
      return value as ExecEvent
    case 'result':
      return { type, result: checked(execResultSchema, value.result, 'the event result') }
    case 'error':
      throw BrambleError.fromProblem(checked(problemSchema, value.error, 'the event error'))
    default:
      // A newer node may have kinds of events that this client does not know.
      return undefined
  }
}
