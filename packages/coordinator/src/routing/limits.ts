/** Bounds and habits of routing, with their unit in the name. */
export interface RoutingLimits {
  /** How long a token for a node's gateway is good. */
  readonly tokenMs: number
  /** A user of whom nothing was heard for so long has no node any more; who comes again is placed anew. */
  readonly sessionIdleMs: number
  /** Users that have a node, at once. Past it, the one that was away the longest goes. About 150 bytes of memory each. */
  readonly maxSessions: number
  /** Users that are forgotten in one turn of the clock. */
  readonly maxForgottenSessions: number
  /** How many times its share a node may hold. */
  readonly loadFactor: number
  /** How long a node may be silent before its users and instances go elsewhere. */
  readonly failoverMs: number
  /** So much earlier the node takes no more tokens for them: both notice at about the same time that they are apart. */
  readonly fenceMarginMs: number
  /** The same for nodes that have not come back since the coordinator began. */
  readonly restartGraceMs: number
  /** How often an instance's files are kept in the shared tier. */
  readonly snapshotEveryMs: number
  readonly maxInstances: number
  readonly maxTenantInstances: number
  /** Nodes that are tried, one after another, for one instance. */
  readonly maxTries: number
  /** Instances on their way to other nodes at once, and nodes that are asked for theirs. */
  readonly maxMoves: number
  readonly maxTended: number
  /** How long a request for the route of an instance waits for it to be back. */
  readonly routeWaitMs: number
  /** An instance that found no node tries again after so long, and twice as long, up to the second. */
  readonly minRetryMs: number
  readonly maxRetryMs: number
  readonly listTimeoutMs: number
  readonly releaseTimeoutMs: number
  readonly startTimeoutMs: number
  readonly snapshotTimeoutMs: number
  /** How often all of this is looked at. */
  readonly tickMs: number
}

export const DEFAULT_ROUTING: RoutingLimits = {
  tokenMs: 5 * 60_000,
  sessionIdleMs: 30 * 60_000,
  maxSessions: 1_000_000,
  maxForgottenSessions: 5_000,
  loadFactor: 1.25,
  failoverMs: 20_000,
  fenceMarginMs: 8_000,
  restartGraceMs: 60_000,
  snapshotEveryMs: 60_000,
  maxInstances: 100_000,
  maxTenantInstances: 10_000,
  maxTries: 3,
  maxMoves: 16,
  maxTended: 32,
  routeWaitMs: 15_000,
  minRetryMs: 1_000,
  maxRetryMs: 60_000,
  listTimeoutMs: 15_000,
  releaseTimeoutMs: 60_000,
  startTimeoutMs: 5 * 60_000,
  snapshotTimeoutMs: 5 * 60_000,
  tickMs: 1_000,
}
