import type { UpgradeHandler } from '@bramble/http'
import { BrambleError, type Job, type JobEvent, jobHasEnded } from '@bramble/protocol'
import type { Network } from '../network/network.ts'
import type { Store } from '../store/store.ts'
import { type Call, invoke, mayRepeat, networkBy } from './calls.ts'
import { type HeldSession, holdSession } from './held-session.ts'
import { type LeadershipEvent, openLeadership } from './leadership.ts'
import { openLink } from './link.ts'
import { openLinkServer } from './link-server.ts'
import { isLost } from './lost.ts'
import { nobodyWrites, presentWriter } from './present-writer.ts'
import { openRedisWakes } from './redis-wakes.ts'

export interface NetworkHereOptions {
  /** Shared by all coordinators of the network; not this network's to close. */
  readonly store: Store
  /** Of this coordinator; unlike any other's. */
  readonly name: string
  /** Where the other coordinators reach this one. */
  readonly url: string
  /** 32 bytes that all coordinators of the network have, and nobody else. */
  readonly secret: Uint8Array
  readonly openWriter: (options: {
    readonly epoch: number
    readonly onFail: (error: unknown) => void
  }) => Promise<Network>
  /** How long a coordinator that died is waited for. Default 5,000. */
  readonly ttlMs?: number
  /** How long a call waits for a coordinator that writes. Default 10,000. */
  readonly patienceMs?: number
  /** Tells others at once of a lease that was given up, as PostgreSQL does, too. `redis://…` */
  readonly redisUrl?: string | undefined
  readonly log?: (event: LeadershipEvent) => void
}

/** The network as one coordinator has it: its own writer while it leads, else a link to the one that writes. */
export interface NetworkHere extends Network {
  /** Whether this coordinator writes now. */
  readonly leads: boolean
  /** Takes the links of other coordinators: one of the handlers of this coordinator's server. */
  readonly handleLink: UpgradeHandler
  /** Resolves when some coordinator writes; rejects with `not_leader` when none does within `ms`. */
  ready(ms: number): Promise<void>
}

const LINK_TIMEOUT_MS = 3_000
/** Sessions that are opened anew at once. */
const REOPENING = 64
/** A session that lost its writer although that is there is opened anew after it. */
const STRANDED_MS = 1_000

const jobEnded = (event: JobEvent): boolean => event.type === 'job' && jobHasEnded(event.job.status)

/**
 * What is called while nobody writes waits for the next writer, for a while. A call whose writer was lost in the middle is made
 * once more where that does no harm, else it rejects with `not_leader`. Streams of events go on with the next writer where they
 * were, and workers' sessions are opened there anew.
 */
export const openNetworkHere = (options: NetworkHereOptions): NetworkHere => {
  const { store, name, url, secret, ttlMs = 5_000, patienceMs = 10_000, log = () => {} } = options
  const present = presentWriter()
  const held = new Set<HeldSession>()
  let own: Network | undefined
  let closed = false
  const links = openLinkServer({ secret, network: () => own })

  const reopen = async (sessions: readonly HeldSession[]): Promise<void> => {
    const { network } = present
    const waiting = [...sessions]
    const work = async (): Promise<void> => {
      for (let session = waiting.pop(); session && network && present.network === network; session = waiting.pop())
        await session.reopen(network).catch(() => stranded(session))
    }
    await Promise.all(Array.from({ length: Math.min(REOPENING, waiting.length) }, work))
  }
  const stranded = (session: HeldSession | undefined): void => {
    const { network } = present
    if (!session || !network) return
    setTimeout(() => {
      if (present.network === network && held.has(session)) void reopen([session])
    }, STRANDED_MS).unref()
  }
  present.follow((network) => {
    for (const session of held) session.lost()
    if (network) void reopen([...held])
  })

  const wakes = options.redisUrl === undefined ? undefined : openRedisWakes(options.redisUrl, () => leadership.look())
  const leadership = openLeadership({
    ...{ store, name, url, ttlMs, present },
    async openWriter(epoch, onFail) {
      const writer = await options.openWriter({ epoch, onFail })
      own = writer
      return writer
    },
    openLink: (to, onClosed) => openLink({ url: to, secret, name, timeoutMs: LINK_TIMEOUT_MS, onClosed }),
    changed: () => wakes?.wake(),
    log(event) {
      if (event.type === 'led') {
        own = undefined
        links.drop()
      }
      log(event)
    },
  })

  const next = async (more: Parameters<typeof present.next>[1] = {}): Promise<Network> => {
    if (closed) throw new BrambleError('shutting_down', { detail: 'this coordinator ends' })
    return present.next(patienceMs, more)
  }
  const call: Call = async <T>(method: Parameters<Call>[0], args: readonly unknown[], signal?: AbortSignal) => {
    const first = await next({ signal })
    try {
      return (await invoke(first, method, args, signal)) as T
    } catch (error) {
      if (!isLost(error) || signal?.aborted) throw error
      // The store is away, and the writer is still there: it is not the writer that can help.
      if (error instanceof BrambleError && error.code === 'store_unavailable' && present.network === first) throw error
      if (!mayRepeat(method, args)) throw nobodyWrites()
    }
    const second = await next({ other: first, signal })
    return (await invoke(second, method, args, signal)) as T
  }

  async function* events(
    ...[id, tenant, { since, signal } = {}]: Parameters<Network['jobs']['events']>
  ): AsyncGenerator<JobEvent> {
    let seen = since
    let other: Network | undefined
    for (;;) {
      const network: Network = await next({ other, signal })
      try {
        const more = { ...(seen !== undefined && { since: seen }), ...(signal && { signal }) }
        for await (const event of network.jobs.events(id, tenant, more)) {
          seen = event.seq
          yield event
          if (jobEnded(event)) return
        }
        if (signal?.aborted) return
        // It ended with the writer, or with the job.
        const job: Job = await call('jobs.get', [id, tenant], signal)
        if (jobHasEnded(job.status)) return
        other = undefined
      } catch (error) {
        if (signal?.aborted) return
        if (!isLost(error)) throw error
        other = network
      }
    }
  }

  const close = async (): Promise<void> => {
    closed = true
    await leadership.close()
    await wakes?.close()
  }
  return {
    ...networkBy(call, {
      events,
      close,
      async session(command, deliver) {
        const open = async (network: Network): Promise<HeldSession> => {
          const session = await holdSession({
            ...{ network, command, deliver },
            onLost: () => stranded(session),
            onClosed: () => held.delete(session),
          })
          held.add(session)
          // It changed in between.
          if (present.network !== network) {
            session.lost()
            void reopen([session])
          }
          return session
        }
        const first = await next()
        try {
          return (await open(first)).session
        } catch (error) {
          if (!isLost(error)) throw error
          return (await open(await next({ other: first }))).session
        }
      },
    }),
    get leads() {
      return own !== undefined
    },
    handleLink: links.handle,
    async ready(ms) {
      await present.next(ms)
    },
  }
}
