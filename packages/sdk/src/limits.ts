/** What the client bounds of what a server sends it, and of how it tries again. */
export const SDK_LIMITS = {
  /** Longest single event of a stream: the result of an execution is one, with up to `maxOutputBytes` of each stream. */
  maxEventBytes: 256 * 1024 * 1024,
  /** Largest JSON answer that is read. */
  maxResponseBytes: 256 * 1024 * 1024,
  /** Largest problem document that is read; the rest of a longer one is dropped. */
  maxProblemBytes: 1024 * 1024,
  /** A `Retry-After` longer than this is given to the caller as an error instead of being waited for. */
  maxRetryAfterMs: 60_000,
  /** Wait before the first retry, doubled for each further one, up to `maxBackoffMs`; half of it is random. */
  firstBackoffMs: 100,
  maxBackoffMs: 5_000,
  retries: 3,
  /** The same of a client that follows a route: a node that is lost is waited for, until another one has what it had. */
  routedRetries: 16,
  routedRequestTimeoutMs: 90_000,
  /** How long a request other than an execution may wait for its answer. */
  requestTimeoutMs: 30_000,
  /** What an execution's request may wait beyond the command's own `timeoutMs`: the queue, and making a sandbox. */
  executionGraceMs: 120_000,
  /** How long the request for a snapshot, a restore, branches or a merge may wait: they may read and write much. */
  snapshotTimeoutMs: 900_000,
  /**
   * Executions that may run longer than this are asked for as a stream, whose heartbeats keep the connection alive:
   * HTTP clients give up on an answer whose head takes too long (300 s for the `fetch` of Node), and so do proxies.
   */
  longExecutionMs: 120_000,
  /** How long an aborted request may stay open to learn the id of the command that it has to cancel. */
  cancelGraceMs: 10_000,
  /** Longest timer of the platform (a signed 32-bit number); a longer wait has no clock. */
  maxTimerMs: 2 ** 31 - 1,
  /** Longest single message of a socket: the node sends pieces of output, far shorter. */
  maxMessageBytes: 16 * 1024 * 1024,
  /** What waits on a socket, either way, before the other side is made to wait. */
  socketHighWaterBytes: 256 * 1024,
  /** What may wait to be read where the platform's socket cannot be paused (browsers); past it the connection ends. */
  maxBufferedBytes: 64 * 1024 * 1024,
  /** A stream that hears nothing for so long, not even a heartbeat, connects anew. */
  streamSilenceMs: 60_000,
  /** How long a stream or a terminal that lost its connection tries to get it back, unless it is told otherwise. */
  reconnectMs: 120_000,
  /** Output of a command on a stream, or events for one reader, that wait to be read before the stream itself waits. */
  maxUnreadBytes: 1024 * 1024,
  /** Executions that `map` has under way at once. */
  mapConcurrency: 8,
} as const
