import type { ExecutionMode, ExecutionResult, ExecutionSpecInput, Isolation, RuntimeChoice } from '@bramble/protocol'
import { toBase64 } from './bytes.ts'
import type { ExecuteOptions } from './call.ts'
import { type Executor, send, streamOf } from './execute.ts'
import type { ExecutionStream } from './execution-stream.ts'
import { refOf, type StateRef } from './snapshots/state-ref.ts'

type ResourcesInput = NonNullable<ExecutionSpecInput['resources']>
type NetworkInput = NonNullable<ExecutionSpecInput['network']>

/** A file for the sandbox: text, or bytes; `mode` is its permissions (0o644 where it is not given). */
export type FileContent = string | Uint8Array
/** A blob of the node, by its SHA-256 (`bramble.blobs.put`). */
export type BlobContent = { readonly blob: string }

/**
 * An execution being described. Immutable: each method returns a new one, so one description can be the start of many.
 * Nothing is sent before `send` or `stream`.
 */
export class ExecutionBuilder {
  readonly #executor: Executor
  readonly #options: ExecuteOptions
  /** What would be sent: the spec of `POST /api/v1/execute`. */
  readonly spec: ExecutionSpecInput

  constructor(executor: Executor, spec: ExecutionSpecInput, options: ExecuteOptions = {}) {
    this.#executor = executor
    this.#options = options
    this.spec = spec
  }

  #with(change: Partial<ExecutionSpecInput>): ExecutionBuilder {
    return new ExecutionBuilder(this.#executor, { ...this.spec, ...change }, this.#options)
  }

  #resources(change: ResourcesInput): ExecutionBuilder {
    return this.#with({ resources: { ...this.spec.resources, ...change } })
  }

  #option(change: ExecuteOptions): ExecutionBuilder {
    return new ExecutionBuilder(this.#executor, this.spec, { ...this.#options, ...change })
  }

  /** Name or digest of an image of the node. */
  image(image: string): ExecutionBuilder {
    return this.#with({ image })
  }

  /** What to run, instead of what was given before. */
  command(command: string | string[]): ExecutionBuilder {
    return this.#with({ command })
  }

  mode(mode: ExecutionMode): ExecutionBuilder {
    return this.#with({ mode })
  }

  /** Begins in the state of a snapshot, instead of a fresh one. */
  from(snapshot: StateRef): ExecutionBuilder {
    return this.#with({ checkpoint: refOf(snapshot) })
  }

  /** The kept result of an equal execution, where there is one; a new one is kept for `ttlMs`, or until it is forgotten. */
  cached({ ttlMs }: { readonly ttlMs?: number | undefined } = {}): ExecutionBuilder {
    return this.#with({ mode: 'cached', ...(ttlMs !== undefined && { cacheTtlMs: ttlMs }) })
  }

  runtime(runtime: RuntimeChoice): ExecutionBuilder {
    return this.#with({ runtime })
  }

  isolation(isolation: Isolation): ExecutionBuilder {
    return this.#with({ isolation })
  }

  cpus(cpus: number): ExecutionBuilder {
    return this.#resources({ cpus })
  }

  memoryMb(memoryMb: number): ExecutionBuilder {
    return this.#resources({ memoryMb })
  }

  diskMb(diskMb: number): ExecutionBuilder {
    return this.#resources({ diskMb })
  }

  /** Processes and threads at once. */
  pids(pids: number): ExecutionBuilder {
    return this.#resources({ pids })
  }

  /** How long the command may run; the node ends it then, and the result's status is `timeout`. */
  timeoutMs(timeoutMs: number): ExecutionBuilder {
    return this.#resources({ timeoutMs })
  }

  /** Bytes kept of each of stdout and stderr in the result. */
  maxOutputBytes(maxOutputBytes: number): ExecutionBuilder {
    return this.#resources({ maxOutputBytes })
  }

  /** One variable, or many; they add to those given before. */
  env(name: string, value: string): ExecutionBuilder
  env(variables: Record<string, string>): ExecutionBuilder
  env(first: string | Record<string, string>, value = ''): ExecutionBuilder {
    return this.#with({ env: { ...this.spec.env, ...(typeof first === 'string' ? { [first]: value } : first) } })
  }

  stdin(stdin: FileContent): ExecutionBuilder {
    return this.#with({ stdin: typeof stdin === 'string' ? stdin : { base64: toBase64(stdin) } })
  }

  /** A file that is there before the command runs. */
  file(path: string, content: FileContent | BlobContent, options: { mode?: number } = {}): ExecutionBuilder {
    return this.#with({ files: { ...this.spec.files, [path]: { ...inputOf(content), ...options } } })
  }

  files(files: Record<string, FileContent | BlobContent>): ExecutionBuilder {
    let builder: ExecutionBuilder = this
    for (const [path, content] of Object.entries(files)) builder = builder.file(path, content)
    return builder
  }

  workdir(workdir: string): ExecutionBuilder {
    return this.#with({ workdir })
  }

  /** `user`, `uid`, `user:group` or `uid:gid` of the image. */
  user(user: string): ExecutionBuilder {
    return this.#with({ user })
  }

  label(name: string, value = ''): ExecutionBuilder {
    return this.#with({ labels: { ...this.spec.labels, [name]: value } })
  }

  /** Paths whose files come back in `result.outputs`. */
  output(...paths: string[]): ExecutionBuilder {
    return this.#with({ outputs: [...(this.spec.outputs ?? []), ...paths] })
  }

  network(network: NetworkInput): ExecutionBuilder {
    return this.#with({ network })
  }

  /** Aborting cancels the execution; the call rejects with code `cancelled`. */
  signal(signal: AbortSignal): ExecutionBuilder {
    return this.#option({ signal })
  }

  /** How long to wait for the answer: the caller's clock, not the command's. */
  requestTimeoutMs(requestTimeoutMs: number): ExecutionBuilder {
    return this.#option({ requestTimeoutMs })
  }

  /** Makes a command that does not succeed a `CommandFailedError`. */
  check(check = true): ExecutionBuilder {
    return this.#option({ check })
  }

  /** Runs it; resolves with the result. Options given here win over those of the builder; of two signals either cancels. */
  send(options: ExecuteOptions = {}): Promise<ExecutionResult> {
    return send(this.#executor, this.spec, this.#merged(options))
  }

  /** Runs this command with all the rest of the description. */
  run(command: string | string[], options: ExecuteOptions = {}): Promise<ExecutionResult> {
    return this.command(command).send(options)
  }

  /** Runs it; gives its events as they happen, and `result` at the end. */
  stream(options: ExecuteOptions = {}): ExecutionStream {
    return streamOf(this.#executor, this.spec, this.#merged(options))
  }

  #merged(options: ExecuteOptions): ExecuteOptions {
    const merged = { ...this.#options, ...options }
    const signals = [this.#options.signal, options.signal].filter((signal) => signal !== undefined)
    return signals.length > 1 ? { ...merged, signal: AbortSignal.any(signals) } : merged
  }
}

const inputOf = (content: FileContent | BlobContent) => {
  if (typeof content === 'string') return { content }
  return content instanceof Uint8Array ? { base64: toBase64(content) } : { blob: content.blob }
}
