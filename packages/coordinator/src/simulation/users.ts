import { BrambleError, type NodeId } from '@bramble/protocol'
import { between, streamOf } from './scenario.ts'
import type { SimulatedNode } from './simulated-node.ts'
import type { World } from './world.ts'

const USERS = 5

/** People who ask now and then which node is theirs: it stays the same while nothing happens to that node. */
export const startUsers = (world: World, nodes: readonly SimulatedNode[]): void => {
  const { loop, scenario, checker } = world
  for (let number = 0; number < USERS; number++) {
    const random = streamOf(scenario.seed, `user ${number}`)
    const user = `user-${number}`
    let home: { readonly node: NodeId; readonly at: number } | undefined
    const ask = (): void => {
      loop.after(between(random, 500, 5000), ask)
      const coordinator = world.front()
      if (!coordinator?.network) return
      const askedAt = loop.now
      coordinator.network.routing.user(user, { tenant: 'tenant-0', scopes: [] }).then(
        ({ node }) => {
          if (coordinator.isDead || coordinator.isPaused) return
          const before = home
          const known = nodes.find(({ id }) => id === before?.node)
          const isThere = known !== undefined && !checker.reputation.isConvicted(known.id)
          if (before && isThere && before.node !== node && known.troubledAt < before.at)
            checker.fail(`${user} was moved from ${before.node} to ${node}, and nothing had happened to the former`)
          home = { node, at: askedAt }
        },
        (error: unknown) => {
          if (!(error instanceof BrambleError)) checker.fail(`asking for a route: ${(error as Error).stack}`)
        },
      )
    }
    ask()
  }
}
