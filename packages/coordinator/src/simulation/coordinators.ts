import type { Identity } from '@bramble/identity'
import { BrambleError } from '@bramble/protocol'
import type { Network } from '../network/network.ts'
import { openWriter } from '../network/open-writer.ts'
import type { Store } from '../store/store.ts'
import type { Link } from './link.ts'
import { between, streamOf } from './scenario.ts'
import { keyOf } from './signatures.ts'
import { AUDIT_KEY, type World } from './world.ts'

/** How long a coordinator may write without a renewal, by the store's clock. */
const WRITER_MS = 3000

/** One process: what it does not get to do any more when it dies, it has not done. */
export interface Coordinator {
  readonly name: string
  epoch: number
  network: Network | undefined
  isDead: boolean
  isPaused: boolean
  readonly links: Set<Link>
  /** Its wall clock is off by so much. */
  skewMs: number
  /** At its next commit: it dies before or after it. */
  diesAtCommit: 'before' | 'after' | undefined
  /** Does it now, or when it is awake again, or never. */
  run(work: () => void): void
}

export interface Coordinators {
  front(): Coordinator | undefined
  start(): void
  crash(when: 'now' | 'before' | 'after'): void
  pause(ms: number): void
  jump(ms: number): void
  /** All of them wake up, and the clock goes right. */
  heal(): void
}

const never = new Promise<never>(() => {})

/** Receipts are signed otherwise here, and nothing is sealed: it only has to have a name. */
const fakeIdentity = (seed: number): Identity => {
  const { id, publicKey } = keyOf(seed, 'network')
  const refuse = (): never => {
    throw new Error('nothing is signed or sealed in a simulation')
  }
  return { id, publicKey, sign: () => `0x${'00'.repeat(65)}`, signReceipts: refuse, open: refuse, sessionKey: refuse }
}

export const openCoordinators = (world: World, base: Store): Coordinators => {
  const { loop, scenario, checker } = world
  const random = streamOf(scenario.seed, 'coordinators')
  const identity = fakeIdentity(scenario.seed)
  const all: Coordinator[] = []

  const make = (): Coordinator => {
    const held: (() => void)[] = []
    let isPaused = false
    const coordinator: Coordinator = {
      name: `coordinator-${all.length + 1}`,
      epoch: 0,
      network: undefined,
      isDead: false,
      get isPaused() {
        return isPaused
      },
      set isPaused(paused) {
        isPaused = paused
        if (!paused) for (const work of held.splice(0)) coordinator.run(work)
      },
      links: new Set(),
      skewMs: 0,
      diesAtCommit: undefined,
      run(work) {
        if (coordinator.isDead) return
        if (isPaused) held.push(work)
        else work()
      },
    }
    all.push(coordinator)
    return coordinator
  }

  const die = (coordinator: Coordinator, why: string): void => {
    if (coordinator.isDead) return
    world.log(() => `${coordinator.name} dies: ${why}`)
    coordinator.isDead = true
    for (const link of coordinator.links) link.cut('its coordinator is gone')
  }

  /** It sees the store as over a wire, and nothing of it once it is dead. */
  const storeOf = (coordinator: Coordinator): Store => {
    const later = (most: number): Promise<void> =>
      new Promise((resolve) => loop.after(between(random, 0, most), () => coordinator.run(resolve)))
    const slowly = <T>(work: () => Promise<T>): Promise<T> => later(2).then(work)
    const append = async (epoch: number, batch: Parameters<Store['append']>[1]): Promise<void> => {
      const frozen = JSON.parse(JSON.stringify(batch))
      await later(5)
      if (coordinator.diesAtCommit === 'before') {
        die(coordinator, 'before a commit')
        return never
      }
      await base.append(epoch, { ...frozen, epoch })
      if (coordinator.diesAtCommit === 'after') {
        die(coordinator, 'after a commit')
        return never
      }
      await later(1)
    }
    return {
      ...base,
      append,
      load: () => slowly(() => base.load()),
      job: (id) => slowly(() => base.job(id)),
      jobs: (query) => slowly(() => base.jobs(query)),
      idempotent: (tenant, key) => slowly(() => base.idempotent(tenant, key)),
      provisional: (node, now, limit) => slowly(() => base.provisional(node, now, limit)),
    }
  }

  const renew = (coordinator: Coordinator): void => {
    loop.after(WRITER_MS / 3, () =>
      coordinator.run(() => {
        void base.renew(coordinator.epoch, WRITER_MS).then((isHeld) => {
          if (isHeld) renew(coordinator)
          else die(coordinator, 'another one writes')
        })
      }),
    )
  }

  const open = async (epoch: number): Promise<void> => {
    const coordinator = make()
    coordinator.epoch = epoch
    checker.coordinatorBegan(epoch)
    world.log(() => `${coordinator.name} begins, epoch ${epoch}`)
    renew(coordinator)
    coordinator.network = await openWriter({
      store: storeOf(coordinator),
      epoch,
      config: world.config,
      identity,
      auditKey: AUDIT_KEY,
      now: () => loop.now + coordinator.skewMs,
      random: (bytes) => {
        for (let at = 0; at < bytes.length; at++) bytes[at] = Math.floor(random() * 256)
      },
      schedule: (ms, work) => loop.after(ms, () => coordinator.run(work)),
      defer: (work) => void loop.after(between(random, 0, 1), () => coordinator.run(work)),
      onFail: (error) => {
        const isFenced = error instanceof BrambleError && error.code === 'not_leader'
        if (!isFenced) checker.fail(`${coordinator.name} failed: ${error instanceof Error ? error.stack : error}`)
        die(coordinator, 'it was fenced off')
      },
    })
    checker.writerOpened()
  }

  /** A standby that takes the place as soon as it is free. */
  const stand = (): void => {
    void base.acquire({ name: 'standby', url: 'http://coordinator.example', ttlMs: WRITER_MS }).then(async (lease) => {
      if (lease.held)
        await open(lease.epoch).catch((error) => checker.fail(`no coordinator could begin: ${error.stack}`))
      loop.after(lease.held ? 1000 : Math.min(lease.leftMs, 500), stand)
    })
  }

  const front = (): Coordinator | undefined =>
    all.findLast(({ isDead, isPaused, network }) => !isDead && !isPaused && network !== undefined)

  return {
    front,
    start: stand,
    crash(when) {
      const coordinator = front()
      if (coordinator === undefined) return
      if (when === 'now') die(coordinator, 'it crashes')
      else coordinator.diesAtCommit = when
    },
    pause(ms) {
      const coordinator = front()
      if (coordinator === undefined) return
      world.log(() => `${coordinator.name} stands still for ${ms} ms`)
      coordinator.isPaused = true
      checker.clockMoved(ms)
      loop.after(ms, () => {
        coordinator.isPaused = false
      })
    },
    jump(ms) {
      const coordinator = front()
      if (coordinator === undefined) return
      world.log(() => `the clock of ${coordinator.name} jumps by ${ms} ms`)
      coordinator.skewMs += ms
      checker.clockMoved(Math.abs(ms))
    },
    heal() {
      for (const coordinator of all) {
        coordinator.isPaused = false
        coordinator.diesAtCommit = undefined
      }
    },
  }
}
