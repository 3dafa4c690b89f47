import {
  type CoordinatorFrame,
  type ExecutionId,
  type JobId,
  jobHasEnded,
  type LeaseRef,
  type NodeId,
  type NodeReport,
  type ReputationEntry,
} from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import type { Batch, LedgerEntry } from '../store/store.ts'
import type { EventLoop } from './event-loop.ts'
import { type ExecutionModel, isInUse, isOpenModel, type JobModel, type LogEvent, sharing } from './job-model.ts'
import { LedgerModel } from './ledger-model.ts'
import { ReputationModel } from './reputation-model.ts'
import { isSignedBy, type SimulatedKey } from './signatures.ts'
import { checkDraw, checkVerdict } from './verdict-check.ts'
import { CONFIG } from './world.ts'

type Record_ =
  | { readonly t: 'j'; readonly j: JobId; readonly e: LogEvent }
  | ({ readonly t: 'r' } & ReputationEntry)
  | ({ readonly t: 'l' } & LedgerEntry)

/** A write takes no longer. */
const IN_FLIGHT_MS = 20
/** From placement to the lease on its way to a node that is connected. */
const MAX_DELIVERY_MS = 2000
const NO_VOTE: readonly string[] = ['inconclusive', 'invalid', 'late', 'unneeded']

interface NodeFacts {
  readonly owner: string
  readonly anchor: boolean
  readonly report: NodeReport
}

/**
 * What must always hold, found out from what was written to the store and from what nodes and tenants were told, by code that the
 * writer has no part in. Everything that is let out is compared with what was durable at that moment.
 */
export class Checker {
  readonly violations: string[] = []
  readonly jobs = new Map<JobId, JobModel>()
  readonly executions = new Map<ExecutionId, ExecutionModel>()
  readonly ledger = new LedgerModel((message) => this.fail(message))
  readonly reputation = new ReputationModel((message) => this.fail(message))
  readonly #loop: EventLoop
  readonly #keys: ReadonlyMap<NodeId, SimulatedKey>
  readonly #nodes = new Map<NodeId, NodeFacts>()
  readonly #suspended = new Set<NodeId>()
  readonly #reconnectedAt = new Map<NodeId, number>()
  readonly #links = new Map<NodeId, object>()
  /** When the connection of a node broke off that did not come back yet, as the coordinator noticed it. */
  readonly #brokenAt = new Map<NodeId, number>()
  #epoch = 0
  #openedAt = 0
  /** Leases may last so much longer: the clock was moved, or nobody watched it. */
  #slackMs = 0

  constructor(loop: EventLoop, keys: ReadonlyMap<NodeId, SimulatedKey>) {
    this.#loop = loop
    this.#keys = keys
  }

  fail(message: string): void {
    if (this.violations.length < 20) this.violations.push(message)
  }

  nodeExists(node: NodeId, facts: NodeFacts): void {
    this.#nodes.set(node, facts)
    this.reputation.exists(node, facts.anchor)
  }

  suspending(node: NodeId): void {
    this.#suspended.add(node)
  }

  coordinatorBegan(epoch: number): void {
    if (epoch <= this.#epoch) this.fail(`epoch ${epoch} was given out after epoch ${this.#epoch}`)
    this.#epoch = epoch
  }

  writerOpened(): void {
    this.#openedAt = this.#loop.now
    this.#brokenAt.clear()
  }

  clockMoved(ms: number): void {
    this.#slackMs += ms
  }

  beat(epoch: number, node: NodeId, running: readonly LeaseRef[]): void {
    if (epoch !== this.#epoch) return
    for (const { execution, token } of running) {
      const known = this.executions.get(execution)
      if (known?.node !== node || known.token !== token) continue
      // What is being written now was decided before it came.
      if (known.beatAt !== undefined && this.#loop.now - known.beatAt > IN_FLIGHT_MS) known.beatBefore = known.beatAt
      known.beatAt = this.#loop.now
    }
  }

  sessionOpened(epoch: number, node: NodeId, running: readonly LeaseRef[], link: object): void {
    if (epoch !== this.#epoch) return
    this.#links.set(node, link)
    this.#reconnectedAt.set(node, this.#loop.now)
    this.#brokenAt.delete(node)
    for (const known of this.executions.values()) {
      if (known.node !== node || !isOpenModel(known)) continue
      if (running.some(({ execution }) => execution === known.id)) known.beatAt = this.#loop.now
      else known.isForgotten = true
    }
  }

  /** Nothing follows for a link that a newer one replaced. */
  sessionBroken(epoch: number, node: NodeId, link: object): void {
    if (epoch === this.#epoch && this.#links.get(node) === link) this.#brokenAt.set(node, this.#loop.now)
  }

  /** Written, all of it. */
  written(batch: Batch & { readonly epoch: number }): void {
    if (batch.epoch !== this.#epoch)
      this.fail(`epoch ${batch.epoch} wrote while epoch ${this.#epoch} was the present one`)
    for (const { state } of batch.jobs) {
      const known = this.jobs.get(state.id)
      if (!known) this.#begin(state)
      else if (state.reopened > known.state.reopened) this.#reopen(known, state.reopened)
      // What was voided by a conviction is not in the log: the job that was written knows.
      for (const { id, validity } of state.executions) {
        const execution = known?.executions.get(id)
        if (execution) execution.isVoid = NO_VOTE.includes(validity)
      }
    }
    const states = [...batch.jobs].sort((a, b) => (a.state.logSeq ?? 0) - (b.state.logSeq ?? 0))
    let next = 0
    const statesUpTo = (seq: number): void => {
      for (let job = states[next]; job && (job.state.logSeq ?? 0) <= seq; job = states[++next]) this.#whole(job.state)
    }
    for (const [index, record] of batch.log.entries()) {
      const seq = batch.seq + index
      statesUpTo(seq - 1)
      this.#record(seq, record as Record_)
    }
    statesUpTo(Number.POSITIVE_INFINITY)
    for (const document of batch.documents) {
      if (document.value === undefined) continue
      if (document.kind === 'account') this.ledger.check(document)
      if (document.kind === 'node') this.reputation.check(document)
    }
    this.#afterwards(batch)
  }

  #begin(state: JobState): void {
    checkDraw(state, (message) => this.fail(message))
    this.jobs.set(state.id, {
      id: state.id,
      tenant: state.tenant,
      request: state.request,
      auditDraw: state.auditDraw,
      relaxed: state.relaxed,
      executions: new Map(),
      state: { ...state, status: 'pending', executions: [], reopened: 0 },
      lastSeq: 0,
      roundToken: 0,
    })
  }

  /** What is in the log of it from here on belongs to another round; the job as it was written knows of that already. */
  #reopen(job: JobModel, reopened: number): void {
    job.roundToken = Math.max(0, ...job.state.executions.map(({ token }) => token))
    job.state = { ...job.state, status: 'verifying', reopened }
  }

  #record(seq: number, record: Record_): void {
    if (record.t === 'r') {
      this.reputation.add(record)
      return
    }
    if (record.t === 'l') {
      this.ledger.add({ ...record, seq })
      return
    }
    const job = this.jobs.get(record.j)
    if (!job) {
      this.fail(`record ${seq} is of job ${record.j}, which was never written`)
      return
    }
    if (jobHasEnded(job.state.status))
      this.fail(`record ${seq} (${record.e.type}) is of job ${job.id}, which has ended`)
    job.lastSeq = seq
    this.#event(job, record.e)
  }

  #event(job: JobModel, event: LogEvent): void {
    if (event.type === 'placed') {
      this.#placed(job, event)
      return
    }
    if (!('execution' in event) || event.type === 'straggling') return
    const execution = job.executions.get(event.execution)
    if (!execution) {
      this.fail(`${event.type} is said of ${event.execution}, which was never placed`)
      return
    }
    if (!isOpenModel(execution) || (execution.token !== undefined && execution.token !== event.token)) return
    if (event.type === 'committed') {
      execution.ended = 'committed'
      execution.resultHash = event.resultHash
      if (!isSignedBy(this.#keys.get(execution.node), event.receipt))
        this.fail(`${execution.id} was taken with a receipt that its node did not sign`)
    } else if (event.type === 'execution_failed') execution.ended = 'failed'
    else if (event.type === 'expired') {
      this.#expired(job, execution)
      execution.ended = 'expired'
    }
  }

  #placed(job: JobModel, { execution: id, standing }: Extract<LogEvent, { type: 'placed' }>): void {
    const name = `${id} of job ${job.id}`
    const { node } = standing
    const facts = this.#nodes.get(node)
    if (this.executions.has(id)) this.fail(`${name} is placed twice`)
    if (!facts) {
      this.fail(`${name} is placed on ${node}, which never joined`)
      return
    }
    for (const other of job.executions.values()) {
      const shared = isInUse(other) ? sharing(standing, other.standing, job.relaxed) : undefined
      if (shared) this.fail(`${name} is on the same ${shared} as ${other.id}`)
    }
    if (standing.owner !== facts.owner) this.fail(`${name} is placed as of ${standing.owner}, not ${facts.owner}`)
    if (standing.established && !this.reputation.isEstablished(node))
      this.fail(`${name} is placed on ${node} as established`)
    if (!facts.anchor && standing.agreements > this.reputation.agreements(node))
      this.fail(`${name} is placed on a node with ${standing.agreements} agreements, and its record has fewer`)
    if (this.reputation.isConvicted(node)) this.fail(`${name} is placed on ${node}, which was convicted`)
    const placed: ExecutionModel = {
      ...{ id, job: job.id, node, standing, placedAt: this.#loop.now },
      ...{
        token: undefined,
        ended: undefined,
        resultHash: undefined,
        beatAt: undefined,
        beatBefore: undefined,
        isForgotten: false,
        isVoid: false,
      },
    }
    job.executions.set(id, placed)
    this.executions.set(id, placed)
    this.#checkRoom(node, facts)
  }

  #checkRoom(node: NodeId, { report, anchor }: NodeFacts): void {
    const open = this.#openOn(node)
    const isNew = !anchor && this.reputation.agreements(node) < CONFIG.newcomerAgreements
    const slots = isNew ? Math.min(report.slots, CONFIG.newcomerRunning) : report.slots
    const sum = (what: 'cpus' | 'memoryMb'): number =>
      open.reduce((total, { job }) => total + (this.jobs.get(job)?.request.spec.resources[what] ?? 0), 0)
    if (open.length > slots && !this.reputation.isConvicted(node))
      this.fail(`${node} has ${open.length} executions in ${slots} slots`)
    if (sum('cpus') > report.cpus + 1e-9)
      this.fail(`${node} has ${report.cpus} processors, and ${sum('cpus')} are in use`)
    if (sum('memoryMb') > report.memoryMb)
      this.fail(`${node} has ${report.memoryMb} MiB, and ${sum('memoryMb')} are in use`)
  }

  #openOn(node: NodeId): ExecutionModel[] {
    return this.open.filter((execution) => execution.node === node)
  }

  get open(): ExecutionModel[] {
    const open: ExecutionModel[] = []
    for (const job of this.jobs.values()) {
      if (jobHasEnded(job.state.status)) continue
      for (const execution of job.executions.values()) if (isOpenModel(execution)) open.push(execution)
    }
    return open
  }

  /** A lease whose node goes on saying that it is at it does not end before its time. */
  #expired(job: JobModel, { id, node, beatAt: last, beatBefore, placedAt, isForgotten }: ExecutionModel): void {
    const beatAt = last !== undefined && this.#loop.now - last < IN_FLIGHT_MS ? beatBefore : last
    if (beatAt === undefined || isForgotten || this.#suspended.has(node) || this.reputation.isConvicted(node)) return
    const now = this.#loop.now
    const hardMs = job.request.spec.resources.timeoutMs + CONFIG.timeoutMarginMs
    const isRecent = now - beatAt < CONFIG.leaseMs * 0.6 && now - (this.#reconnectedAt.get(node) ?? 0) > 100
    const brokenMs = now - (this.#brokenAt.get(node) ?? now)
    if (isRecent && brokenMs < CONFIG.reconnectMs * 0.9 && now - placedAt < hardMs * 0.9)
      this.fail(
        `the lease of ${id} ended ${now - beatAt} ms after ${node} renewed it, ${now - placedAt} ms after it was placed`,
      )
  }

  /** A job as it was written whole: what the log says happened to it, and nothing else. */
  #whole(state: JobState): void {
    const job = this.jobs.get(state.id)
    if (!job) return
    const name = `job ${state.id}`
    const before = job.state
    if (state.tenant !== job.tenant || state.auditDraw !== job.auditDraw) this.fail(`${name} is not what was submitted`)
    if (jobHasEnded(before.status) && state.reopened === before.reopened) {
      const { status, canonical } = before
      if (status !== state.status || canonical !== state.canonical)
        this.fail(`${name} was ${status} by ${canonical}, and is ${state.status} by ${state.canonical}`)
    }
    let token = 0
    for (const execution of state.executions) {
      if (execution.token <= token) this.fail(`${name} gave token ${execution.token} after token ${token}`)
      token = execution.token
      const known = job.executions.get(execution.id)
      if (!known) {
        this.fail(`${name} has ${execution.id}, whose placement was never written`)
        continue
      }
      if (known.token !== undefined && known.token !== token)
        this.fail(`${execution.id} has the tokens ${known.token} and ${token}`)
      known.token = token
      const isOpen = execution.status === 'leased' || execution.status === 'running'
      if (isOpen && !isOpenModel(known)) this.fail(`${execution.id} is ${execution.status}, and had ${known.ended}`)
      if (isOpenModel(known) && !isOpen) {
        known.ended = execution.resultHash !== undefined && execution.validity !== 'late' ? 'committed' : 'stopped'
        known.resultHash = execution.resultHash
        if (execution.status === 'failed') known.ended = 'failed'
      }
    }
    if (state.executions.length !== job.executions.size)
      this.fail(`${name} has ${state.executions.length} executions, and ${job.executions.size} were placed`)
    job.state = state
    job.lastSeq = Math.max(job.lastSeq, state.logSeq ?? 0)
    if (state.status === 'completed' && before.status !== 'completed')
      checkVerdict(job, state, {
        fail: (message) => this.fail(message),
        isSigned: (node, receipt) => isSignedBy(this.#keys.get(node), receipt),
      })
  }

  /** What belongs together was written together. */
  #afterwards(batch: Batch): void {
    for (const { state } of batch.jobs) {
      const { id, status, request, executions, reopened } = state
      const held = this.ledger.balance(`hold:${id}`)
      const paid = this.ledger.paidFor(id)
      if (jobHasEnded(status) && held !== 0) this.fail(`job ${id} is ${status}, and still holds ${held}`)
      if (paid > request.creditsRequired * request.redundancy * (1 + reopened))
        this.fail(`job ${id} cost ${paid} credits`)
      if (state.creditsSpent !== paid) this.fail(`job ${id} says it spent ${state.creditsSpent}, and ${paid} were paid`)
      for (const execution of executions)
        if (this.ledger.isPaid(execution.id) && execution.validity !== 'agreed' && reopened === 0)
          this.fail(`${execution.id} was paid, and is \`${execution.validity}\``)
    }
    for (const entry of batch.reputation) this.#checkEntry(entry)
    for (const { execution } of batch.ledger) {
      const known = execution === undefined ? undefined : this.executions.get(execution as ExecutionId)
      if (execution !== undefined && (!known || !jobHasEnded(this.jobs.get(known.job)?.state.status ?? 'pending')))
        this.fail(`${execution} was paid before its job was decided`)
    }
    if (batch.checkpoint === undefined) return
    for (const job of this.jobs.values())
      if (!jobHasEnded(job.state.status) && job.lastSeq <= batch.checkpoint && job.lastSeq > (job.state.logSeq ?? 0))
        this.fail(`the checkpoint ${batch.checkpoint} forgets record ${job.lastSeq} of job ${job.id}`)
  }

  /** Praise and blame follow from verdicts. */
  #checkEntry({ kind, node, execution: id, job: of }: ReputationEntry): void {
    if (kind !== 'agreed' && kind !== 'alone' && kind !== 'disagreed' && kind !== 'convicted') return
    const job = this.jobs.get(of as JobId)?.state
    const execution = job?.executions.find((each) => each.id === id)
    if (!job || !execution || execution.standing.node !== node || job.status !== 'completed') {
      this.fail(`${node} has an entry \`${kind}\` for ${id}, which decided nothing`)
      return
    }
    const agreed = job.executions.filter(({ validity }) => validity === 'agreed')
    if (kind === 'agreed' && !agreed.some(({ standing }) => standing.owner !== execution.standing.owner))
      this.fail(`${node} is said to have agreed in ${of}, with nobody else`)
    if (kind === 'convicted' && !agreed.some(({ standing }) => standing.established))
      this.fail(`${node} was convicted in ${of} on the word of nodes that nobody knows`)
    if ((kind === 'disagreed' || kind === 'convicted') && execution.validity !== 'disagreed')
      this.fail(`${node} is \`${kind}\` in ${of}, and its result is \`${execution.validity}\``)
  }

  /** A frame leaves a coordinator: what it says must be durable. */
  frameSent(node: NodeId, frame: CoordinatorFrame): void {
    if (frame.type === 'lease')
      for (const lease of frame.items) {
        const known = this.executions.get(lease.execution)
        if (!known) {
          this.fail(`${lease.execution} was leased before its placement was durable`)
          continue
        }
        if (known.node !== node) this.fail(`${lease.execution} was placed on ${known.node}, and leased to ${node}`)
        if (known.token !== undefined && known.token !== lease.token)
          this.fail(`${lease.execution} was leased with the tokens ${known.token} and ${lease.token}`)
        known.token = lease.token
        for (const other of this.jobs.get(known.job)?.executions.values() ?? [])
          if (other !== known && other.token === lease.token) this.fail(`${other.id} and ${known.id} have one token`)
      }
    if (frame.type === 'renewed')
      for (const { execution, token } of frame.items) {
        const known = this.executions.get(execution)
        if (known?.node !== node) this.fail(`the lease of ${execution} was renewed for ${node}, which has not got it`)
        else if (known.ended !== undefined || (known.token !== undefined && known.token !== token))
          this.fail(`the lease of ${execution} was renewed after it had ${known.ended}`)
      }
    if (frame.type === 'ack')
      for (const { execution, error } of frame.items) {
        const known = this.executions.get(execution)
        if (error === undefined && known?.resultHash === undefined && known?.ended !== 'failed')
          this.fail(`the result of ${execution} was acknowledged before it was durable`)
      }
  }

  /** From time to time: no lease goes on without its node, and each is sent to a node that is there. */
  checkLeases(isThere: (node: NodeId) => boolean): void {
    const now = this.#loop.now
    for (const { id, job: of, node, token, placedAt, beatAt } of this.open) {
      const reachableAt = Math.max(placedAt, this.#openedAt, this.#reconnectedAt.get(node) ?? now)
      if (token === undefined && isThere(node) && now - reachableAt > MAX_DELIVERY_MS + this.#slackMs)
        this.fail(`${id} of job ${of} was placed on ${node} ${now - placedAt} ms ago, which is there, and was not sent`)
      const seenAt = Math.max(placedAt, beatAt ?? 0, this.#openedAt)
      // While a coordinator stands still, its clock does: the lease goes on for as long.
      const limitMs = 2 * CONFIG.leaseMs + CONFIG.restartGraceMs + 3000 + this.#slackMs
      if (now - seenAt > limitMs)
        this.fail(`nobody is at ${id} of job ${of} since ${now - seenAt} ms, and its lease goes on`)
    }
  }
}
