import type { Coordinators } from './coordinators.ts'
import { between, type Faults, pick, streamOf } from './scenario.ts'
import type { SimulatedNode } from './simulated-node.ts'
import type { World } from './world.ts'

/** Plans what goes wrong and when; each kind has its own random stream. */
export const planFaults = (world: World, nodes: readonly SimulatedNode[], coordinators: Coordinators): void => {
  const { loop, scenario } = world
  const plan = (kind: keyof Faults, work: (random: () => number) => void): void => {
    for (let number = 0; number < scenario.faults[kind]; number++) {
      const random = streamOf(scenario.seed, `${kind} ${number}`)
      loop.after(between(random, 1000, scenario.stormMs), () => work(random))
    }
  }
  plan('nodeCrashes', (random) => {
    const node = pick(random, nodes)
    node.crash()
    loop.after(between(random, 200, 9000), () => node.start())
  })
  plan('partitions', (random) => {
    const node = pick(random, nodes)
    const up = random() < 0.7
    const down = !up || random() < 0.6
    world.log(() => `${node.name} cannot ${[up && 'speak', down && 'hear'].filter(Boolean).join(' and ')}`)
    node.trouble()
    if (up) node.reaches.up = false
    if (down) node.reaches.down = false
    loop.after(between(random, 500, 12_000), () => {
      node.reaches.up = true
      node.reaches.down = true
      node.trouble()
    })
  })
  plan('coordinatorCrashes', (random) => coordinators.crash(pick(random, ['now', 'before', 'after'] as const)))
  plan('coordinatorPauses', (random) => coordinators.pause(between(random, 1000, 8000)))
  plan('clockJumps', (random) => coordinators.jump(between(random, 20_000, 300_000) * (random() < 0.7 ? 1 : -1)))
  plan('drains', (random) => pick(random, nodes).drain())
  plan('suspensions', (random) => {
    // Somebody's mistake: three honest ones are needed in the end.
    const node = pick(random, nodes)
    if (node.index < 3) return
    world.log(() => `${node.name} is suspended by hand`)
    world.checker.suspending(node.id)
    node.trouble()
    world
      .front()
      ?.network?.nodes.suspend(node.id, 'by hand')
      .catch(() => {})
  })
}
