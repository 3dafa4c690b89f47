/**
 * What any call of the client takes besides its own data. Three clocks are told apart by name: `timeoutMs` is how long a
 * command may run (its node ends it, and the result says `timeout`), `requestTimeoutMs` how long the caller waits for an
 * answer (`request_timeout`), `ttlMs` how long an instance may live.
 */
export interface CallOptions {
  /** Aborting rejects with code `cancelled`, ends the request, and so cancels an execution that runs for it. */
  readonly signal?: AbortSignal | undefined
  /**
   * How long to wait for the answer, all tries together; of a stream, for its head. 0: as long as it takes. Default: of
   * an execution its command's `timeoutMs` and two minutes; of anything else 30 s.
   */
  readonly requestTimeoutMs?: number | undefined
}

export interface ExecuteOptions extends CallOptions {
  /** True: a command that does not succeed is a `CommandFailedError` instead of a result. */
  readonly check?: boolean | undefined
  /**
   * Names this execution, so that the node runs it once however often it is sent; it then outlives its connection, and
   * another process that sends it under the same key gets the same result. Not for streams.
   */
  readonly idempotencyKey?: string | undefined
}
