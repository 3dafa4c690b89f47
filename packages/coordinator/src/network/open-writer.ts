import { createSecretKey } from 'node:crypto'
import { type Identity, seal } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { BrambleError, type Job, type JobId, jobHasEnded, type NodeId } from '@bramble/protocol'
import type { Transition } from '../core/core.ts'
import type { JobState } from '../core/job-state.ts'
import { transition } from '../core/transition.ts'
import { evidenceView, executionView, jobView } from '../core/views.ts'
import { nodeTable } from '../placement/node-table.ts'
import type { NodeTable, WaitingQueue } from '../placement/placement.ts'
import { stragglers } from '../placement/stragglers.ts'
import { waitingQueue } from '../placement/waiting-queue.ts'
import { openRouting } from '../routing/open-routing.ts'
import { openJournal } from '../store/open-journal.ts'
import type { Store } from '../store/store.ts'
import { openAccounts } from './accounts.ts'
import type { NetworkConfig } from './config.ts'
import { pump } from './dispatch.ts'
import { openHeldChars, openRecentJobs } from './held-chars.ts'
import { apply } from './job-flow.ts'
import { openLeases } from './leases.ts'
import { listJobs } from './list-jobs.ts'
import { listNodes } from './list-nodes.ts'
import type { Network } from './network.ts'
import { nodeView, setStatus } from './node-records.ts'
import { openNonces } from './nonces.ts'
import { openOutbox } from './outbox.ts'
import { recover } from './recover.ts'
import { drain, makeInvite, type Registry, register, resume, strike } from './registration.ts'
import { openSessions } from './sessions.ts'
import { statsOf } from './stats.ts'
import { steadyClock } from './steady-clock.ts'
import { type Repeats, submit } from './submit.ts'
import { openSubscriptions } from './subscriptions.ts'
import { MAX_STEP_MS, openCheckpoints, TICK_MS, tick } from './ticks.ts'
import { heartbeat, nodeOf, openWorkerSession, poll, renew, takeCommits, takeFailures } from './workers.ts'
import type { Surroundings, WriterContext } from './writer-context.ts'

export interface WriterOptions extends Partial<Surroundings> {
  readonly store: Store
  /** Of the writer's lease that was acquired. */
  readonly epoch: number
  readonly config: NetworkConfig
  /** The network's own key: opens sealed inputs, signs tokens of routes, draws audits. */
  readonly identity: Identity
  /** The secret part of the draw of audits, kept with the network's key. */
  readonly auditKey: Uint8Array
  /** Runs it when the present turn is over: when a write begins. Default `setImmediate`. */
  readonly defer?: (work: () => void) => void
  /** Told once when the writer cannot go on (its epoch is over, the store fails); it is closed then. */
  readonly onFail?: (error: unknown) => void
  /** Other parts in the place of the usual ones: a simulation breaks them on purpose. */
  readonly parts?: { readonly transition?: Transition; readonly table?: NodeTable; readonly queue?: WaitingQueue }
}

const systemSchedule = (ms: number, work: () => void): (() => void) => {
  const timer = setTimeout(work, ms)
  return () => clearTimeout(timer)
}

const systemRandom = (): number => Math.random()

/** A number in [0, 1) from random bytes. */
const uniform = (random: (bytes: Uint8Array) => void) => {
  const bytes = new Uint8Array(6)
  return (): number => {
    random(bytes)
    return Buffer.from(bytes.buffer).readUIntBE(0, 6) / 2 ** 48
  }
}

/**
 * Opens the one coordinator that writes: it loads the network from the store, and is the network from there on, until it is
 * closed or its epoch is over. Errors: those of the store.
 */
export const openWriter = async (options: WriterOptions): Promise<Network> => {
  const { store, epoch, config, identity, parts = {} } = options
  const now = options.now ?? Date.now
  const schedule = options.schedule ?? systemSchedule
  const loaded = await store.load()
  const curve = wasmCurve()
  const journal = openJournal({ store, epoch, now, seq: loaded.seq, ...(options.defer && { defer: options.defer }) })
  let closed = false
  let failure: unknown
  const fail = (error: unknown): void => {
    if (closed) return
    failure = error
    void close()
    options.onFail?.(error)
  }
  const w: WriterContext = {
    ...{ config, store, journal, now, schedule, fail, steady: steadyClock(now, MAX_STEP_MS) },
    auditKey: createSecretKey(options.auditKey),
    ...(options.random && { random: options.random }),
    outbox: openOutbox(journal, fail),
    transition: parts.transition ?? transition,
    table: parts.table ?? nodeTable({ random: options.random ? uniform(options.random) : systemRandom }),
    queue: parts.queue ?? waitingQueue(),
    stragglers: stragglers(),
    jobs: new Map(),
    deadlines: new Map(),
    retries: new Map(),
    anchorWaits: new Map(),
    verdicts: new Map(),
    recent: openRecentJobs({ maxJobs: config.recentJobs, maxChars: config.maxRecentChars }),
    held: openHeldChars(),
    lateTold: new WeakSet(),
    byTenant: new Map(),
    classes: new Map(),
    nodes: new Map(),
    leases: openLeases(),
    accounts: openAccounts(journal, now),
    sessions: openSessions(epoch, schedule),
    subscriptions: openSubscriptions(),
    counts: { endedJobs: 0, placedExecutions: 0, verified: 0, startedAt: now() },
    reseal: async (sealed, publicKey) => seal(publicKey, await identity.open(sealed), curve),
    onConvicted: (node) => strike(w, registry, node),
  }
  const registry: Registry = { invites: new Map(), owners: new Map() }
  const repeats: Repeats = { byKey: new Map() }
  const nonces = openNonces(config, now)
  await recover(w, registry, loaded)
  const routing = openRouting({
    ...{ network: config.network, identity, now, schedule, steady: w.steady },
    table: w.table,
    nodes: () => w.nodes.values(),
    note: (document) => journal.add({ documents: [document] }),
    durable: () => w.outbox.durable(),
    request: w.sessions.request,
    limits: config.routing,
    ...(options.random && { random: options.random }),
  })
  routing.load(loaded.documents)
  const checkpoints = openCheckpoints(w)
  let cancelTick = (): void => {}
  const ticking = (): void => {
    cancelTick = schedule(TICK_MS, () => {
      if (closed) return
      try {
        tick(w)
        if (checkpoints.due()) checkpoints.run().catch(fail)
      } catch (error) {
        fail(error)
      }
      ticking()
    })
  }
  pump(w)
  ticking()

  const alive = (): void => {
    if (!closed) return
    if (failure instanceof BrambleError && failure.code !== 'not_leader') throw failure
    throw new BrambleError('not_leader', { detail: 'this coordinator does not write any more', retryAfterMs: 200 })
  }
  /** Whatever is answered is durable; what is wrong in one call ends that call only. */
  const call = async <T>(work: () => Promise<T> | T): Promise<T> => {
    alive()
    return work()
  }
  const stateOf = async (id: JobId, tenant: string): Promise<JobState> => {
    const state = w.jobs.get(id)?.state ?? w.recent.get(id) ?? (await store.job(id))
    if (!state || state.tenant !== tenant) throw new BrambleError('not_found', { detail: `there is no job \`${id}\`` })
    return state
  }
  /** As it is now, when that is durable. */
  const durableView = async <T>(id: JobId, tenant: string, view: (state: JobState) => T): Promise<T> => {
    const shown = view(await stateOf(id, tenant))
    await w.outbox.durable()
    return shown
  }
  const get = (id: JobId, tenant: string): Promise<Job> => durableView(id, tenant, jobView)

  const closeOnce = async (): Promise<void> => {
    closed = true
    cancelTick()
    await routing.close()
    w.sessions.closeAll()
    w.subscriptions.endAll()
    await journal.close().catch(() => {})
  }
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    closing ??= closeOnce()
    return closing
  }

  return {
    jobs: {
      submit: (command) => call(() => submit(w, repeats, command, get)),
      get: (id, tenant) => call(() => get(id, tenant)),
      list: (query, tenant) => call(() => listJobs(w, query, tenant)),
      cancel: (id, tenant) =>
        call(async () => {
          const state = await stateOf(id, tenant)
          if (!jobHasEnded(state.status)) {
            apply(w, id, { type: 'cancelled', by: tenant })
            pump(w)
          }
          return get(id, tenant)
        }),
      executions: (id, tenant) =>
        call(() => durableView(id, tenant, (state) => state.executions.map((each) => executionView(state, each)))),
      evidence: (id, tenant) =>
        call(() =>
          durableView(id, tenant, (state) =>
            evidenceView(state, {
              network: config.network,
              publicKey: (node: NodeId) => w.nodes.get(node)?.publicKey ?? '',
            }),
          ),
        ),
      events: (id, tenant, { since, signal } = {}) => ({
        [Symbol.asyncIterator]: async function* () {
          alive()
          const state = await stateOf(id, tenant)
          await w.outbox.durable()
          yield* w.subscriptions.follow(() => w.jobs.get(id)?.state ?? w.recent.get(id) ?? state, {
            ...(since !== undefined && { since }),
            ...(signal && { signal }),
          })
        },
      }),
    },
    nodes: {
      register: (command) => call(() => register(w, registry, command)),
      get: (id) => call(() => nodeView(w, nodeOf(w, id))),
      list: (query) => call(() => listNodes(w, query)),
      reputation: (id, query) => call(() => store.reputation(id, query)),
      drain: (id) => call(() => drain(w, nodeOf(w, id))),
      resume: (id) => call(() => resume(w, nodeOf(w, id))),
      suspend: (id, message) =>
        call(async () => {
          const record = nodeOf(w, id)
          setStatus(w, record, 'suspended', message)
          w.sessions.send(id, {
            type: 'bye',
            error: new BrambleError('node_suspended', { detail: message }).toProblem(),
          })
          for (const { job, execution, token } of w.leases.of(id))
            apply(w, job, { type: 'expired', execution, token, as: 'lost' })
          pump(w)
          await w.outbox.durable()
          return nodeView(w, record)
        }),
      invite: (request) => call(() => makeInvite(w, registry, request)),
      publicKey: (id) => call(() => w.nodes.get(id)?.publicKey),
      heartbeat: (id, running, report) => call(() => heartbeat(w, id, running, report)),
      poll: (id, each) => call(() => poll(w, id, each)),
      commit: (id, commits, failures) =>
        call(async () => {
          const taken = [...takeCommits(w, id, commits), ...takeFailures(w, id, failures)]
          pump(w)
          await w.outbox.durable()
          return Promise.all(taken)
        }),
      renew: (id, lease) => call(() => renew(w, id, lease)),
    },
    session: (command, deliver) =>
      call(async () => {
        const session = await openWorkerSession(w, command, deliver)
        routing.nodeBack(command.node)
        return session
      }),
    routing: routing.network,
    takeNonce: (node, nonce) => call(() => nonces.take(node, nonce)),
    putDocument: (kind, id, value) =>
      call(async () => {
        journal.add({ documents: [{ kind, id, value }] })
        await w.outbox.durable()
      }),
    credit: (tenant, credits) =>
      call(async () => {
        w.accounts.open(tenant, config.grantCredits)
        w.accounts.grant(tenant, credits)
        await w.outbox.durable()
        return { tenant, balance: w.accounts.balance(`tenant:${tenant}`) / 1_000_000 }
      }),
    stats: () => call(() => statsOf(w, identity.publicKey)),
    close,
    [Symbol.asyncDispose]: close,
  }
}
