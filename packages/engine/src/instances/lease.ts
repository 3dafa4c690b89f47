import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
import { listPorts, sandboxFiles } from '@bramble/runtime'
import { requestFor } from './command.ts'
import { type Context, inBackground } from './context.ts'
import { countedAgent } from './counted-agent.ts'
import { runExec } from './exec.ts'
import { touch } from './idle.ts'
import type { InstanceLease } from './instances.ts'
import { resumeIn } from './lifecycle.ts'
import type { Box, BoxEnd, LiveInstance } from './live-instance.ts'

/** How long looking for what listens may take. */
const PORTS_WITHIN_MS = 5000
/** Addresses of one name that are tried. */
const MAX_ADDRESSES = 4

type ConnectTarget = Parameters<InstanceLease['connect']>[0]

/** Throws where nothing may begin in the sandbox now; begins to resume one that was paused under its users. */
export const assertUsable = (context: Context, live: LiveInstance): void => {
  if (live.row.status !== 'paused') return
  if (!live.spec.autoResume) throw new BrambleError('conflict', { detail: 'the instance is paused' })
  inBackground(context, live, async () => {
    if (live.row.status === 'paused') await resumeIn(context, live)
  })
}

/** What to try for a host, in order; undefined is the sandbox itself (RFC 6761 for the names of it). */
const addressesOf = async ({ sandbox }: Box, host: string | undefined): Promise<(string | undefined)[]> => {
  if (host === undefined || host === 'localhost' || host.endsWith('.localhost')) return [undefined]
  if (isIP(host) !== 0) return [host]
  if (sandbox.resolve) return await sandbox.resolve(host)
  throw new BrambleError('port_closed', { detail: `the instance has no network to reach ${host} by` })
}

const connectTo = async (box: Box, { host, port, signal }: ConnectTarget): Promise<Duplex> => {
  let failure: unknown = new BrambleError('port_closed', { detail: `${host} has no address` })
  for (const address of (await addressesOf(box, host)).slice(0, MAX_ADDRESSES)) {
    signal?.throwIfAborted()
    try {
      return await box.sandbox.agent.connect({ port, host: address, signal })
    } catch (error) {
      failure = error
    }
  }
  throw failure
}

/** What a sandbox that does not answer must not hold up for ever. */
const soon = async <T>(withinMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
  const controller = new AbortController()
  const detail = `the sandbox did not answer within ${withinMs} ms`
  const timer = setTimeout(() => controller.abort(new BrambleError('request_timeout', { detail })), withinMs)
  try {
    return await work(controller.signal)
  } finally {
    clearTimeout(timer)
  }
}

/** The right to talk to a running instance. It holds nothing of its own: taking one costs an object. */
export const leaseOf = (context: Context, live: LiveInstance, box: Box): InstanceLease => new Lease(context, live, box)

/** A class, since one is made for each request to a port. */
class Lease implements InstanceLease {
  readonly #context: Context
  readonly #live: LiveInstance
  readonly #box: Box
  #held = true
  #ended: Promise<BoxEnd> | undefined
  #forget: (() => void) | undefined

  constructor(context: Context, live: LiveInstance, box: Box) {
    this.#context = context
    this.#live = live
    this.#box = box
    live.leases++
  }

  get id(): InstanceLease['id'] {
    return this.#live.id
  }
  get tenant(): string {
    return this.#live.row.tenant
  }
  get agent(): InstanceLease['agent'] {
    return countedAgent(this.#box)
  }
  get files(): InstanceLease['files'] {
    return sandboxFiles(this.#box.sandbox.agent, { user: this.defaults.user })
  }
  get stream(): InstanceLease['stream'] {
    return this.#live.stream
  }
  get defaults(): InstanceLease['defaults'] {
    return this.#box.defaults
  }
  get ended(): InstanceLease['ended'] {
    this.#ended ??= new Promise((resolve) => {
      this.#forget = this.#box.ended.listen(resolve)
    })
    return this.#ended
  }

  exec(...[body, options]: Parameters<InstanceLease['exec']>): ReturnType<InstanceLease['exec']> {
    const [context, live, box] = [this.#context, this.#live, this.#box]
    const { clock, limits, outputRoom: room } = context
    assertUsable(context, live)
    const stdin = body.stdin === undefined ? 'none' : 'pipe'
    const request = requestFor(live.spec, box.image, box.defaults, body, stdin)
    return runExec({ live, box, clock, killGraceMs: limits.killGraceMs, room }, request, body, options)
  }

  observe({ signal }: Parameters<InstanceLease['observe']>[0]): ReturnType<InstanceLease['observe']> {
    assertUsable(this.#context, this.#live)
    return this.#box.observer.observe(signal)
  }

  async ports(): ReturnType<InstanceLease['ports']> {
    assertUsable(this.#context, this.#live)
    return await soon(PORTS_WITHIN_MS, (signal) => listPorts(this.#box.sandbox.agent, { signal }))
  }

  async connect(target: ConnectTarget): Promise<Duplex> {
    assertUsable(this.#context, this.#live)
    return await connectTo(this.#box, target)
  }

  [Symbol.dispose](): void {
    if (!this.#held) return
    this.#held = false
    this.#forget?.()
    const live = this.#live
    live.leases--
    if (live.leases === 0) touch(this.#context, live)
  }
}
