/**
 * The host's end of the agent's stream (`packages/agent/FRAMES.md`): many commands at once over one byte stream.
 *
 * Everything that comes from the other side is untrusted: a frame out of place, past a limit or past its credit ends the
 * connection with `agent_protocol`, and every command on it with the same error. When the stream ends, running commands
 * reject with `sandbox_died`.
 */
export interface Agent extends AsyncDisposable {
  exec(request: ExecRequest): AgentProcess
  /** Round trip to the agent; rejects with `sandbox_died` when it is gone. */
  ping(options?: { signal?: AbortSignal | undefined }): Promise<void>
  /** Resolves when the connection is over, with the reason where there is one; never rejects. */
  readonly closed: Promise<Error | undefined>
  close(): Promise<void>
}

export interface ExecRequest {
  readonly argv: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  readonly workdir?: string | undefined
  /** `user`, `uid`, `user:group` or `uid:gid`, by the sandbox's own passwd and group files. Default root. */
  readonly user?: string | undefined
  /** `'none'`: `/dev/null`. `'pipe'`: `write` and `end` feed it. */
  readonly stdin?: 'none' | 'pipe'
  /** Wait for end of file of both streams without limit after the command ended. */
  readonly linger?: boolean
  readonly rlimits?: { readonly openFiles?: number; readonly fileSizeBytes?: number; readonly coreBytes?: number }
}

export type ProcessEvent =
  | { readonly type: 'started'; readonly pid: number }
  | { readonly type: 'stdout'; readonly data: Buffer }
  | { readonly type: 'stderr'; readonly data: Buffer }
  | ({ readonly type: 'exit' } & ProcessExit)

/** How a command ended. `failed`: it never started (127 not found, 126 otherwise, by the shell's convention). */
export type ProcessExit =
  | { readonly kind: 'exited'; readonly code: number; readonly rusage: Rusage }
  | { readonly kind: 'signalled'; readonly signal: number; readonly rusage: Rusage }
  | { readonly kind: 'failed'; readonly errno: number; readonly step: FailedStep; readonly message: string }

export type FailedStep = 'fork' | 'user' | 'workdir' | 'pipes' | 'exec'

/** By the agent's word, which is the sandbox's: good for people, not for billing. */
export interface Rusage {
  readonly userMicros: number
  readonly systemMicros: number
  readonly peakResidentBytes: number
}

/**
 * One command. Iterate it once for its events, in order; the last is `exit`. Output is taken only as fast as it is
 * iterated: at most a window of bytes waits on this side, then the command blocks. Leaving the loop early kills the
 * command's process group. An iteration that fails (`sandbox_died`, `agent_protocol`) throws.
 */
export interface AgentProcess extends AsyncIterable<ProcessEvent> {
  /** Resolves when the bytes are accepted by the flow control; a command that closed its stdin swallows them. */
  write(data: Uint8Array): Promise<void>
  end(): void
  /** Sends a signal to the process group. */
  kill(signal?: number): void
  /** Throws away the rest of a stream, in the sandbox, without carrying it here. */
  discard(stream: 'stdout' | 'stderr'): void
}
