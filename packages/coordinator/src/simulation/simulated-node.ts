import {
  type Commit,
  type CoordinatorFrame,
  type Lease,
  type LeaseRef,
  type NodeId,
  type NodeReport,
  nodeReportSchema,
  type Welcome,
  type WorkerFrame,
} from '@bramble/protocol'
import { type Link, openLink } from './link.ts'
import { answerOf, forge, mayRun } from './misdeeds.ts'
import { between, streamOf, type Temper } from './scenario.ts'
import { inputHashOf, keyOf, resultOf, type SimulatedKey, signReceipt } from './signatures.ts'
import type { World } from './world.ts'

interface Held {
  readonly lease: Lease
  phase: 'running' | 'done'
  commit?: Commit
  cancel: () => void
}

export interface NodeOptions {
  readonly index: number
  readonly temper: Temper
  readonly owner: string
  readonly machine: string
  readonly subnet: string
  readonly anchor: boolean
  /** Of that owner's invite, once there is one. */
  readonly token: (owner: string) => string | undefined
}

/** A worker and its machine: it takes leases, works, and says what came out, as its temper has it. */
export class SimulatedNode {
  readonly index: number
  owner: string
  readonly subnet: string
  readonly report: NodeReport
  readonly world: World
  readonly random: () => number
  temper: Temper
  key: SimulatedKey
  /** Frames of the past, for those who repeat them. */
  readonly past: WorkerFrame[] = []
  readonly reaches = { up: true, down: true }
  isUp = false
  /** When something happened to it that others must make up for. */
  troubledAt = 0
  isDraining = false
  agreed = 0
  readonly #token: NodeOptions['token']
  readonly #anchor: boolean
  readonly #held = new Map<string, Held>()
  #link: Link | undefined
  #isRegistered = false
  #lives = 0
  #silentBeats = 0
  #isSuspended = false

  constructor(world: World, { index, temper, owner, machine, subnet, anchor, token }: NodeOptions) {
    this.world = world
    this.index = index
    this.temper = temper
    this.owner = owner
    this.subnet = subnet
    this.#token = token
    this.#anchor = anchor
    this.random = streamOf(world.scenario.seed, `node ${index}`)
    this.report = nodeReportSchema.parse({
      ...{ version: '0', cpus: 4, memoryMb: 8192, diskMb: 10_000, slots: between(this.random, 1, 4) },
      ...{ isolation: ['container'], machine, platform: 'x', speed: 100 },
      url: `https://node-${index}.example`,
      images: [{ name: 'base', digest: `sha256:${'ba'.repeat(32)}` }],
    })
    this.key = this.#newKey()
  }

  get id(): NodeId {
    return this.key.id
  }
  get name(): string {
    return `node-${this.index}${this.#lives > 1 ? `.${this.#lives}` : ''}`
  }
  get isSlow(): boolean {
    return this.temper === 'slow'
  }
  get isConnected(): boolean {
    return this.#link?.isOpen === true && this.reaches.up && this.reaches.down
  }
  get isAnchor(): boolean {
    return this.#anchor
  }

  #newKey(): SimulatedKey {
    this.#lives++
    const key = keyOf(this.world.scenario.seed, `node ${this.index} life ${this.#lives}`)
    this.world.keys.set(key.id, key)
    return key
  }

  start(): void {
    if (this.isUp) return
    this.isUp = true
    this.trouble()
    this.world.log(() => `${this.name} starts (${this.id.slice(0, 8)}, ${this.owner}, ${this.temper})`)
    this.#connect()
  }

  crash(): void {
    if (!this.isUp) return
    this.world.log(() => `${this.name} crashes`)
    this.trouble()
    this.isUp = false
    for (const held of this.#held.values()) held.cancel()
    this.#held.clear()
    this.#link?.cut('its node crashed')
  }

  drain(): void {
    if (!this.isConnected || this.isDraining) return
    this.world.log(() => `${this.name} drains`)
    this.trouble()
    this.isDraining = true
    this.send({ type: 'drain' })
    this.#leaveWhenIdle()
  }

  trouble(): void {
    this.troubledAt = this.world.loop.now
  }

  send(frame: WorkerFrame): void {
    this.#link?.send(frame)
    if (frame.type !== 'beat' && this.past.length < 50) this.past.push(frame)
  }

  /** The network does not want it: who lies for a living comes back as somebody else. */
  suspended(): void {
    this.#isSuspended = true
    this.trouble()
    if (this.temper !== 'patient' || this.#lives > 2) return
    this.world.loop.after(between(this.random, 500, 5000), () => {
      this.#isSuspended = false
      this.#isRegistered = false
      this.agreed = 0
      this.key = this.#newKey()
      this.owner = `stranger-${this.index}-${this.#lives}`
      this.world.log(() => `${this.name} is a new name of the same node`)
      if (this.isUp) this.#connect()
    })
  }

  disconnected(link: Link): void {
    if (this.#link !== link) return
    this.#link = undefined
    if (this.isDraining) {
      this.isDraining = false
      this.isUp = false
      this.world.loop.after(between(this.random, 1000, 5000), () => this.start())
      return
    }
    if (this.isUp && !this.#isSuspended) this.#reconnect()
  }

  welcome({ keep }: Welcome, link: Link): void {
    if (this.#link !== link) return
    const kept = new Set(keep.map(({ execution }) => execution as string))
    for (const [execution, held] of this.#held) {
      if (kept.has(execution)) continue
      held.cancel()
      // What is done is worth a try, late as it may be.
      if (held.phase !== 'done') this.#held.delete(execution)
    }
    for (const { commit } of this.#held.values()) if (commit) this.send({ type: 'commit', items: [commit] })
    this.#beatLater(link)
  }

  take(frame: CoordinatorFrame, link: Link): void {
    if (this.#link !== link || !this.isUp) return
    this.#silentBeats = 0
    switch (frame.type) {
      case 'lease':
        for (const lease of frame.items) this.#begin(lease)
        return
      case 'cancel':
        for (const { execution, token } of frame.items) this.#forget({ execution, token })
        return
      case 'ack':
        for (const { execution, token, error } of frame.items) {
          if (error === undefined) this.agreed++
          this.#forget({ execution, token })
        }
        return
      case 'bye':
        if (frame.error.code === 'node_suspended') this.suspended()
        link.cut(`bye: ${frame.error.code}`)
        return
      case 'renewed':
      case 'request':
        return
      default:
        frame satisfies never
    }
  }

  #forget({ execution, token }: LeaseRef): void {
    const held = this.#held.get(execution)
    if (held?.lease.token !== token) return
    held.cancel()
    this.#held.delete(execution)
  }

  #begin(lease: Lease): void {
    const known = this.#held.get(lease.execution)
    if (known) {
      if (known.commit) this.send({ type: 'commit', items: [known.commit] })
      return
    }
    const { loop } = this.world
    const { execution, token } = lease
    this.world.gossip.leases.push({ node: this.id, lease })
    if (!mayRun(this)) {
      loop.after(between(this.random, 5, 500), () =>
        this.send({ type: 'failed', items: [{ execution, token, code: 'no_room', message: 'it is broken' }] }),
      )
      return
    }
    const slow = this.isSlow ? 10 : 1
    const startMs = between(this.random, 0, 30) * slow
    const runMs = between(this.random, 20, 900) * slow
    const held: Held = { lease, phase: 'running', cancel: () => {} }
    this.#held.set(execution, held)
    held.cancel = loop.after(startMs, () => {
      if (this.random() < 0.95) this.send({ type: 'started', items: [{ execution, token }] })
      held.cancel = loop.after(runMs, () => this.#finish(held))
    })
  }

  #finish(held: Held): void {
    held.phase = 'done'
    const { lease } = held
    const stdout = answerOf(this, lease)
    const { result, hash } = resultOf(stdout)
    const receipt = signReceipt(this.key, {
      ...{ network: this.world.config.network, job: lease.job, execution: lease.execution, token: lease.token },
      ...{ node: this.id, inputHash: `0x${inputHashOf(lease.spec.command)}`, resultHash: `0x${hash}` },
      ...{ cpuMs: 1, peakMemoryBytes: 1, startedAtMs: 1, finishedAtMs: 2 },
    })
    const honest: Commit = { execution: lease.execution, token: lease.token, receipt, result }
    const commit = this.temper === 'forger' ? forge(this, honest) : honest
    held.commit = commit
    this.world.gossip.commits.push({ node: this.id, commit })
    this.world.log(() => `${this.name} commits ${lease.execution.slice(-6)} of ${lease.job.slice(-6)}: ${stdout}`)
    this.send({ type: 'commit', items: [commit] })
  }

  #leaveWhenIdle(): void {
    this.world.loop.after(200, () => {
      if (!this.isDraining || !this.#link) return
      if (this.#held.size === 0) this.#link.cut('it has drained')
      else this.#leaveWhenIdle()
    })
  }

  #reconnect(): void {
    this.world.loop.after(between(this.random, 100, 1500), () => this.#connect())
  }

  #connect(): void {
    if (!this.isUp || this.#link || this.#isSuspended) return
    const coordinator = this.world.front()
    if (!coordinator || !this.reaches.up || !this.reaches.down) {
      this.#reconnect()
      return
    }
    if (!this.#isRegistered) {
      this.#register()
      return
    }
    const running = [...this.#held.values()].map(({ lease: { execution, token } }) => ({ execution, token }))
    this.#link = openLink({ world: this.world, node: this, coordinator, random: this.random, running })
    const link = this.#link
    // A coordinator that does not answer is tried again.
    this.world.loop.after(3000, () => {
      if (this.#link === link && this.#beatingOn !== link) link.cut('no welcome came')
    })
  }

  #register(): void {
    const coordinator = this.world.front()
    const token = this.#token(this.owner)
    if (!coordinator?.network || token === undefined) {
      this.#reconnect()
      return
    }
    const { id, report, subnet } = this
    const registration = { node: id, publicKey: this.key.publicKey, token, report }
    this.world.checker.nodeExists(id, { owner: this.owner, report, anchor: this.#anchor })
    let isAnswered = false
    const again = (): void => {
      if (!isAnswered) this.#reconnect()
      isAnswered = true
    }
    this.world.loop.after(3000, again)
    coordinator.network.nodes.register({ registration, subnet }).then(
      () => {
        if (coordinator.isDead || id !== this.id) return
        this.#isRegistered = true
        again()
      },
      () => again(),
    )
  }

  #beatingOn: Link | undefined

  #beatLater(link: Link): void {
    this.#beatingOn = link
    this.world.loop.after(this.world.config.heartbeatMs, () => {
      if (this.#link !== link || !this.isUp) return
      this.#silentBeats = this.reaches.up && this.reaches.down ? 0 : this.#silentBeats + 1
      if (this.#silentBeats > 2 || link.coordinator.isPaused) {
        this.#silentBeats = 0
        link.cut('nothing comes')
        return
      }
      const running: (LeaseRef & { progress?: number })[] = [...this.#held.values()].map(
        ({ lease: { execution, token } }) => ({ execution, token }),
      )
      this.send({
        type: 'beat',
        running:
          this.temper === 'forger' ? [...running, ...this.world.gossip.leasesOfOthers(this.id, this.random)] : running,
      })
      if (this.temper === 'forger' && this.past.length > 0 && this.random() < 0.5)
        this.send(this.past[Math.floor(this.random() * this.past.length)] as WorkerFrame)
      // What was not acknowledged is said again.
      for (const { commit } of this.#held.values()) if (commit) this.send({ type: 'commit', items: [commit] })
      this.#beatLater(link)
    })
  }
}
