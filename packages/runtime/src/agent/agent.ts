import type { Duplex } from 'node:stream'

/**
 * The host's end of the agent's stream (`packages/agent/FRAMES.md`): many commands at once over one byte stream.
 *
 * Everything that comes from the other side is untrusted: a frame out of place, past a limit or past its credit ends the
 * connection with `agent_protocol`, and every command on it with the same error. When the stream ends, running commands
 * reject with `sandbox_died`.
 */
export interface Agent extends AsyncDisposable {
  exec(request: ExecRequest): AgentProcess
  /**
   * Opens a TCP connection from inside the sandbox, through the agent: it needs no network of the sandbox. Rejects with
   * `port_closed` when the connection is refused or cannot be made, `sandbox_died` when the sandbox is gone. The stream has
   * back-pressure both ways and half-closes.
   */
  connect(request: ConnectRequest): Promise<Duplex>
  /** Named commands, and what programs in the sandbox emit: all that outlives this connection. */
  readonly log: AgentLog
  /** Round trip to the agent; rejects with `sandbox_died` when it is gone. */
  ping(options?: { signal?: AbortSignal | undefined }): Promise<void>
  /** How often the memory of the sandbox was saved during this connection; undefined is never. */
  readonly parks?: number
  /** Resolves when the connection is over, with the reason where there is one; never rejects. */
  readonly closed: Promise<Error | undefined>
  close(): Promise<void>
}

/** `host`: an IPv4 or IPv6 address as text. Default 127.0.0.1, and then ::1. */
export interface ConnectRequest {
  readonly port: number
  readonly host?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * The log of an agent: numbered entries, kept in the sandbox up to 256 KiB, so that a host that died loses nothing. What
 * was kept when this connection began is handed out first, from `firstSeq` on, acknowledged before or not.
 */
export interface AgentLog {
  /** The number of the first entry that this connection hands out. */
  readonly firstSeq: number
  /** That of the first one after those that were kept when this connection began, whether they have come yet or not. */
  readonly firstNewSeq: number
  /** The number that the next entry will have. */
  readonly nextSeq: number
  /** Named commands that run, by name; those that ran before this connection included. */
  readonly commands: ReadonlyMap<string, NamedCommand>
  /**
   * Starts a named command. What it says are entries: `started` or `exit` of kind `failed` first. Throws `conflict` when the
   * name is in use.
   */
  start(request: ExecRequest, name: string): NamedCommand
  /** Takes entries from now on, in order; those that waited come at once. One reader for the life of the connection. */
  read(onEntry: (entry: LogEntry) => void): void
  /** Entries up to `seq` were delivered, to whomever: the agent may forget them. Without this named commands stand still after 256 KiB. */
  acknowledge(seq: number): void
}

/** `event` is a command's; `emitted` the bytes of one datagram of a program. */
export type LogEntry =
  | { readonly seq: number; readonly name: string; readonly event: ProcessEvent }
  | { readonly seq: number; readonly emitted: Buffer }

/** A command that outlives its connection. What it says comes through the log. */
export interface NamedCommand extends ProcessInput {
  readonly name: string
  /** Unknown until it has begun. */
  readonly pid: number | undefined
  readonly pty: boolean
}

export interface ExecRequest {
  /** Text, or bytes where a name is no UTF-8. */
  readonly argv: readonly (string | Uint8Array)[]
  /** On a terminal of this size: `stdout` has all its output, and `stdin` is open. */
  readonly pty?: TerminalSize | undefined
  readonly env?: Readonly<Record<string, string>>
  readonly workdir?: string | undefined
  /** `user`, `uid`, `user:group` or `uid:gid`, by the sandbox's own passwd and group files. Default root. */
  readonly user?: string | undefined
  /** `'none'`: `/dev/null`. `'pipe'`: `write` and `end` feed it. */
  readonly stdin?: 'none' | 'pipe'
  /** Wait for end of file of both streams without limit after the command ended. */
  readonly linger?: boolean
  /** It holds what cannot be saved (inotify(7)): it is killed before the memory of the sandbox is. */
  readonly transient?: boolean | undefined
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

export interface TerminalSize {
  readonly cols: number
  readonly rows: number
}

export type FailedStep = 'fork' | 'user' | 'workdir' | 'pipes' | 'exec' | 'connect'

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
export interface AgentProcess extends AsyncIterable<ProcessEvent>, ProcessInput {
  /** Throws away the rest of a stream, in the sandbox, without carrying it here. */
  discard(stream: 'stdout' | 'stderr'): void
}

/** What can be done to a command. All of it is safe after its end, and does nothing then. */
export interface ProcessInput {
  /** Resolves when the bytes are accepted by the flow control; a command that closed its stdin swallows them. */
  write(data: Uint8Array): Promise<void>
  end(): void
  /** Sends a signal to the process group. */
  kill(signal?: number): void
  /** Of its terminal; without one it does nothing. */
  resize(size: TerminalSize): void
}
