import { BrambleError, type CoordinatorFrame, type LeaseRef, type WorkerFrame } from '@bramble/protocol'
import type { WorkerSession } from '../network/network.ts'
import type { Coordinator } from './coordinators.ts'
import { between } from './scenario.ts'
import { isSignedBy } from './signatures.ts'
import type { SimulatedNode } from './simulated-node.ts'
import type { World } from './world.ts'

/**
 * A connection of a node to a coordinator, with the part of a front that stands between: frames arrive late, in order, sometimes
 * twice, or not at all while the way is blocked; signatures are checked before the writer sees a result.
 */
export interface Link {
  readonly coordinator: Coordinator
  readonly isOpen: boolean
  send(frame: WorkerFrame): void
  cut(why: string): void
}

interface LinkOptions {
  readonly world: World
  readonly node: SimulatedNode
  readonly coordinator: Coordinator
  readonly random: () => number
  /** Resolves when the coordinator has taken the session, or not. */
  readonly running: readonly LeaseRef[]
}

const DUPLICATES = 0.02

export const openLink = ({ world, node, coordinator, random, running }: LinkOptions): Link => {
  const { loop, checker } = world
  const { id, report, subnet } = node
  let isOpen = true
  let session: WorkerSession | undefined
  let upAt = 0
  let downAt = 0
  const lag = (): number => (node.isSlow ? between(random, 50, 400) : between(random, 0, 20))

  const link: Link = {
    coordinator,
    get isOpen() {
      return isOpen
    },
    send(frame) {
      up(() => deliverUp(frame))
      if (random() < DUPLICATES) up(() => deliverUp(frame))
    },
    cut(why) {
      if (!isOpen) return
      isOpen = false
      world.log(() => `${node.name} loses its session: ${why}`)
      coordinator.links.delete(link)
      if (!coordinator.isDead) node.trouble()
      // The coordinator notices at once, or when nothing has come for a while.
      loop.after(random() < 0.7 ? between(random, 0, 50) : between(random, 1000, 6000), () =>
        coordinator.run(() => {
          if (session) broke(session)
          node.trouble()
        }),
      )
      node.disconnected(link)
    },
  }
  coordinator.links.add(link)

  const broke = (closing: WorkerSession): void => {
    checker.sessionBroken(coordinator.epoch, id, link)
    closing.close({ broken: true })
  }

  const up = (work: () => void): void => {
    upAt = Math.max(upAt, loop.now + lag())
    loop.after(upAt - loop.now, () => {
      if (isOpen && node.reaches.up) coordinator.run(work)
    })
  }

  const down = (work: () => void): void => {
    downAt = Math.max(downAt, loop.now + lag())
    loop.after(downAt - loop.now, () => {
      if (isOpen && node.reaches.down) work()
    })
  }

  /** As a front does: what is not signed by its node is a failure of the execution. */
  const verified = (frame: WorkerFrame): WorkerFrame[] => {
    if (frame.type !== 'commit') return [frame]
    const key = world.keys.get(id)
    const good = frame.items.filter(({ receipt }) => isSignedBy(key, receipt))
    const bad = frame.items.filter((item) => !good.includes(item))
    return [
      ...(good.length > 0 ? [{ ...frame, items: good }] : []),
      ...(bad.length > 0
        ? [
            {
              type: 'failed' as const,
              items: bad.map(({ execution, token }) => ({
                ...{ execution, token, code: 'signature_invalid', message: 'the receipt is not signed by its node' },
              })),
            },
          ]
        : []),
    ]
  }

  const deliverUp = (frame: WorkerFrame): void => {
    const active = session
    if (!active || coordinator.isDead) return
    for (const each of verified(frame)) {
      if (each.type === 'beat') checker.beat(coordinator.epoch, id, each.running)
      active.frame(each).catch((error: unknown) => {
        if (!(error instanceof BrambleError))
          checker.fail(`a frame of ${node.name} broke the writer: ${stackOf(error)}`)
        link.cut(`its frame was refused: ${error instanceof Error ? error.message : error}`)
      })
    }
  }

  const deliverDown = (frame: CoordinatorFrame): void => {
    if (coordinator.isDead || !isOpen) return
    checker.frameSent(id, frame)
    down(() => node.take(frame, link))
  }

  up(() => {
    checker.sessionOpened(coordinator.epoch, id, running, link)
    coordinator.network?.session({ node: id, report, running, subnet }, deliverDown).then(
      (opened) => {
        session = opened
        if (!isOpen) coordinator.run(() => broke(opened))
        else down(() => node.welcome(opened.welcome, link))
      },
      (error: unknown) => {
        if (!(error instanceof BrambleError)) checker.fail(`a session broke the writer: ${stackOf(error)}`)
        if (error instanceof BrambleError && error.code === 'node_suspended') node.suspended()
        link.cut(`no session: ${error instanceof Error ? error.message : error}`)
      },
    )
  })
  return link
}

const stackOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error))
