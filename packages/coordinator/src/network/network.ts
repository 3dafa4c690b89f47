import type {
  Commit,
  CoordinatorFrame,
  Failure,
  Instance,
  InstanceId,
  InstanceSpec,
  Invite,
  InviteRequest,
  Job,
  JobEvent,
  JobEvidence,
  JobExecution,
  JobId,
  JobRequest,
  JobsQuery,
  Lease,
  LeaseRef,
  NetworkInstance,
  NetworkNode,
  NetworkStats,
  NodeId,
  NodeRegistration,
  NodeReport,
  NodesQuery,
  Problem,
  ReputationEntry,
  Scope,
  Welcome,
  WorkerFrame,
} from '@bramble/protocol'

/**
 * The network as its fronts see it: what HTTP routes and workers' sessions call. Everything passed is JSON (but signals and
 * callbacks), checked already: bodies parsed, callers authenticated, signatures verified. What is answered is durable.
 *
 * Drivers: `openWriter` is the one coordinator that writes; `openLink` calls it from any other coordinator. Methods reject with
 * `BrambleError`s; `not_leader` where nobody writes at the moment.
 */
export interface Network extends AsyncDisposable {
  readonly jobs: {
    submit(command: SubmitJob): Promise<{ readonly job: Job; readonly repeated: boolean }>
    get(id: JobId, tenant: string): Promise<Job>
    list(query: JobsQuery, tenant: string): Promise<Page<Job>>
    cancel(id: JobId, tenant: string): Promise<Job>
    executions(id: JobId, tenant: string): Promise<JobExecution[]>
    evidence(id: JobId, tenant: string): Promise<JobEvidence>
    /** What happened after `since`, then what happens, until the job has ended. */
    events(id: JobId, tenant: string, options?: { since?: number; signal?: AbortSignal }): AsyncIterable<JobEvent>
  }
  readonly nodes: {
    register(command: RegisterNode): Promise<NetworkNode>
    get(id: NodeId): Promise<NetworkNode>
    list(query: NodesQuery): Promise<Page<NetworkNode>>
    reputation(id: NodeId, query: { before?: number; limit: number }): Promise<ReputationEntry[]>
    /** Nothing new is placed there; what runs goes on. */
    drain(id: NodeId): Promise<NetworkNode>
    resume(id: NodeId): Promise<NetworkNode>
    /** Suspends it, as a conviction does: an administrator's word. */
    suspend(id: NodeId, message: string): Promise<NetworkNode>
    invite(request: InviteRequest): Promise<Invite>
    /** The public key it registered with; undefined for a node that is not known. */
    publicKey(id: NodeId): Promise<string | undefined>
    /** For workers without a stream: alive; answers with what it is to stop, as `welcome` does. */
    heartbeat(id: NodeId, running: readonly LeaseRef[], report?: NodeReport): Promise<{ keep: LeaseRef[] }>
    /** Leases for a worker without a stream, as soon as there are any. */
    poll(id: NodeId, options: { waitMs: number; max: number; signal?: AbortSignal }): Promise<Lease[]>
    commit(id: NodeId, commits: readonly Commit[], failures: readonly Failure[]): Promise<Acknowledgement[]>
    renew(id: NodeId, lease: LeaseRef): Promise<{ leaseMs: number }>
  }
  /** Opens a session for a worker whose hello was verified. `deliver` is called in order, and may be called before this resolves. */
  session(command: OpenSession, deliver: (frame: CoordinatorFrame) => void): Promise<WorkerSession>
  readonly routing: {
    /** The node that serves a user: the same one as before while it lives. */
    user(user: string, caller: RouteCaller): Promise<Route>
    instance(ref: string, caller: RouteCaller): Promise<Route>
    startInstance(spec: InstanceSpec, caller: RouteCaller): Promise<{ instance: Instance; route: Route }>
    /** Newest first. */
    instances(query: { limit: number; cursor?: string }, tenant: string): Promise<Page<NetworkInstance>>
    /** Takes a snapshot of it now, from which it comes back if its node is lost. */
    snapshotInstance(ref: string, tenant: string): Promise<NetworkInstance>
    removeInstance(ref: string, tenant: string): Promise<void>
  }
  /** True the first time that nonce of that node is seen within the clock skew: each signed request is taken once. */
  takeNonce(node: NodeId, nonce: string): Promise<boolean>
  /** Keeps a document of the fronts, which read it from the store: API keys, and whose network it is. `undefined` removes it. */
  putDocument(kind: 'key' | 'network', id: string, value: unknown): Promise<void>
  credit(tenant: string, credits: number): Promise<{ tenant: string; balance: number }>
  stats(): Promise<NetworkStats>
  close(): Promise<void>
}

export interface Page<T> {
  readonly items: T[]
  readonly nextCursor: string | null
}

export interface SubmitJob {
  readonly tenant: string
  readonly request: JobRequest
  readonly idempotency?: { readonly key: string; readonly digest: string }
}

export interface RegisterNode {
  readonly registration: NodeRegistration
  /** Of its connection: /24 or /48. */
  readonly subnet: string
}

export interface OpenSession {
  readonly node: NodeId
  readonly report: NodeReport
  readonly running: readonly LeaseRef[]
  readonly subnet: string
  /** Of a session that goes on after its writer was lost: what its first welcome called it. It does not end one that began later. */
  readonly since?: string
}

export interface WorkerSession {
  readonly welcome: Welcome
  /** In the order in which they came; resolves when what it says is durable. Commits' receipts are verified already. */
  frame(frame: WorkerFrame): Promise<void>
  /**
   * The connection is gone. `broken`: without a word, as when the worker's process dies. It has `reconnectMs` to come back; else
   * what it runs is its own until the lease ends.
   */
  close(how?: { readonly broken: boolean }): void
}

export interface Acknowledgement extends LeaseRef {
  readonly error?: Problem
}

/** Who asks for a route: its token allows what the caller's key allows, but for `admin`. */
export interface RouteCaller {
  readonly tenant: string
  readonly scopes: readonly Scope[]
}

export interface Route {
  readonly node: NodeId
  readonly url: string
  /** For the node's gateway, as a bearer; short-lived. */
  readonly token: string
  readonly expiresAt: string
  readonly instance?: InstanceId
}
