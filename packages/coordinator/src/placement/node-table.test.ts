import { describe, expect, it } from 'vitest'
import { nodeTable } from './node-table.ts'
import type { ChooseRequest, Need, PlacedNode } from './placement.ts'
import { chooseRequest, nodeIdAt, placedNode, seededRandom, standingOf } from './testing.ts'

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`
const pick = <T>(random: () => number, values: readonly T[]): T => values[Math.floor(random() * values.length)] as T

/** A network of every kind of node, small enough that many requests find none. */
const randomNode = (index: number, random: () => number): PlacedNode =>
  placedNode(index, {
    owner: `owner-${Math.floor(random() * 8)}`,
    subnet: `10.0.${Math.floor(random() * 10)}.0/24`,
    status: pick(random, ['online', 'online', 'online', 'online', 'draining', 'offline', 'suspended']),
    established: random() < 0.5,
    trust: random(),
    speed: 0.5 + random(),
    maxRunning: pick(random, [1, 2, 8]),
    report: {
      cpus: pick(random, [1, 2, 4]),
      memoryMb: pick(random, [512, 1024, 4096]),
      slots: pick(random, [1, 2, 4]),
      isolation: pick(random, [['container'], ['container', 'gvisor'], ['container', 'vm']]),
      gpus: pick(random, [[], [], [{ model: 'a100', memoryMb: 1 }], [{ model: 'l4', memoryMb: 1 }]]),
      ...(random() < 0.8 && { region: pick(random, ['eu', 'us', 'asia']) }),
      labels: pick(random, [{}, { disk: 'ssd' }, { disk: 'ssd', tier: '1' }]),
      machine: `machine-${Math.floor(random() * 12)}`,
      images: pick(random, [[], [{ name: 'base', digest: digest('a') }], [{ name: 'base', digest: digest('b') }]]),
    },
  })

const randomRequest = (nodes: readonly PlacedNode[], random: () => number): ChooseRequest =>
  chooseRequest({
    need: { cpus: pick(random, [0.5, 1, 3]), memoryMb: pick(random, [256, 1024, 2048]), gpus: 0 },
    ...(random() < 0.2 && { isolation: pick(random, ['gvisor', 'vm'] as const) }),
    ...(random() < 0.3 && { regions: pick(random, [['eu'], ['eu', 'us'], ['us', 'asia', 'us']]) }),
    ...(random() < 0.1 && { gpuModel: 'a100' }),
    ...(random() < 0.2 && {
      nodeLabels: pick<Record<string, string>>(random, [{ disk: 'ssd' }, { tier: '1', disk: 'ssd' }]),
    }),
    image: pick(random, [
      { name: 'base' },
      { name: 'base', digest: digest('a') },
      { name: 'ghcr.example/team/app:1', digest: digest('b') },
      { name: 'unknown' },
    ]),
    established: random() < 0.3,
    others: nodes.filter(() => random() < 0.1).map(standingOf),
    distinct: pick(random, [['owner', 'machine', 'subnet'], ['owner'], []] as const),
    failed: nodes.filter(() => random() < 0.1).map(({ id }) => id),
  })

type Used = Map<string, { slots: number; cpus: number; memoryMb: number }>

/** The rules as the documents have them, one after another, over all nodes. */
const mayRun = (request: ChooseRequest, node: PlacedNode, used: Used | undefined): boolean => {
  const { report } = node
  const taken = used?.get(node.id) ?? { slots: 0, cpus: 0, memoryMb: 0 }
  const name = request.image.name
  return (
    node.status === 'online' &&
    (!request.established || node.established) &&
    (request.isolation === undefined || report.isolation.includes(request.isolation)) &&
    (request.regions === undefined || request.regions.includes(report.region ?? '')) &&
    (request.gpuModel === undefined || report.gpus.some(({ model }) => model === request.gpuModel)) &&
    Object.entries(request.nodeLabels ?? {}).every(([label, value]) => report.labels[label] === value) &&
    (name.includes('.') ||
      report.images.some((image) =>
        request.image.digest === undefined ? image.name === name : image.digest === request.image.digest,
      )) &&
    request.others.every(
      (other) =>
        other.node !== node.id &&
        !(request.distinct.includes('owner') && other.owner === node.owner) &&
        !(request.distinct.includes('machine') && other.machine === report.machine) &&
        !(request.distinct.includes('subnet') && other.subnet === node.subnet),
    ) &&
    taken.slots + 1 <= Math.min(report.slots, node.maxRunning) &&
    taken.cpus + request.need.cpus <= report.cpus &&
    taken.memoryMb + request.need.memoryMb <= report.memoryMb
  )
}

describe('nodeTable', () => {
  it('chooses a node that satisfies everything, and waits only where none does', () => {
    let placed = 0
    let waited = 0
    let never = 0
    for (let seed = 1; seed <= 150; seed++) {
      const random = seededRandom(seed)
      const table = nodeTable({ random })
      const nodes = Array.from({ length: pick(random, [3, 12, 60]) }, (_, index) => randomNode(index, random))
      for (const node of nodes) table.set(node)
      const used: Used = new Map()
      const running: { node: PlacedNode; need: Need }[] = []
      for (let step = 0; step < 60; step++) {
        const at = Math.floor(random() * nodes.length)
        if (random() < 0.1) {
          // What a node is changes while things run on it.
          const changed = { ...randomNode(at, random), id: nodes[at]?.id ?? nodeIdAt(at) }
          nodes[at] = changed
          table.set(changed)
        }
        const request = randomRequest(nodes, random)
        const oracle = nodes.filter((node) => mayRun(request, node, used))
        const choice = table.choose(request)
        if ('node' in choice) {
          placed++
          const { node } = choice
          expect(oracle.map(({ id }) => id)).toContain(node.id)
          if (request.failed.includes(node.id)) expect(oracle.every(({ id }) => request.failed.includes(id))).toBe(true)
          expect(choice.standing).toMatchObject(standingOf(node))
          table.reserve(node.id, request.need)
          const taken = used.get(node.id) ?? { slots: 0, cpus: 0, memoryMb: 0 }
          used.set(node.id, {
            slots: taken.slots + 1,
            cpus: taken.cpus + request.need.cpus,
            memoryMb: taken.memoryMb + request.need.memoryMb,
          })
          running.push({ node, need: request.need })
        } else {
          waited++
          expect(oracle).toEqual([])
          const idle = nodes.filter((node) => mayRun(request, node, undefined))
          expect(choice.waiting.busy).toBe(idle.length)
          expect(choice.never).toBe(idle.length === 0 && nodes.some(({ status }) => status === 'online'))
          if (choice.never) never++
          expect(choice.full).toBe(!nodes.some((node) => mayRun({ ...request, others: [] }, node, used)))
          const stopped = Object.values(choice.waiting.stopped).reduce((sum, each) => sum + each, 0)
          expect(stopped + choice.waiting.busy).toBe(nodes.length)
          expect(choice.waiting.nodes).toBe(nodes.length)
        }
        if (running.length > 0 && random() < 0.4) {
          const [ended] = running.splice(Math.floor(random() * running.length), 1)
          const taken = ended && used.get(ended.node.id)
          if (ended && taken) {
            table.release(ended.node.id, ended.need)
            used.set(ended.node.id, {
              slots: taken.slots - 1,
              cpus: taken.cpus - ended.need.cpus,
              memoryMb: taken.memoryMb - ended.need.memoryMb,
            })
          }
        }
      }
      for (const { id, report, maxRunning } of nodes) {
        const free = table.free(id)
        const taken = used.get(id)
        expect(free?.slots).toBe(Math.max(0, Math.min(report.slots, maxRunning) - (taken?.slots ?? 0)))
        expect(free?.cpus).toBeCloseTo(Math.max(0, report.cpus - (taken?.cpus ?? 0)))
      }
    }
    expect(placed).toBeGreaterThan(1000)
    expect(waited).toBeGreaterThan(1000)
    expect(never).toBeGreaterThan(100)
  })

  it('says which constraint stopped how many', () => {
    const table = nodeTable({ random: seededRandom(1) })
    table.set(placedNode(1, { report: { memoryMb: 256 } }))
    table.set(placedNode(2, { report: { memoryMb: 256 } }))
    const mine = placedNode(3, { owner: 'alice' })
    table.set(mine)
    const other = standingOf(placedNode(4, { owner: 'alice' }))
    expect(table.choose(chooseRequest({ others: [other] }))).toMatchObject({
      waiting: {
        nodes: 3,
        busy: 0,
        stopped: { memory: 2, owner: 1 },
        message: '3 nodes: 2 have too little memory, 1 is of the same owner',
      },
      never: true,
      full: false,
    })
    expect(nodeTable({ random: Math.random }).choose(chooseRequest())).toMatchObject({
      waiting: { nodes: 0, message: 'no node has joined' },
      never: false,
    })
  })

  it('follows the load it made itself: of many equal nodes none is crowded', () => {
    const random = seededRandom(7)
    const table = nodeTable({ random })
    const count = 200
    for (let index = 0; index < count; index++) table.set(placedNode(index))
    const given = new Map<string, number>()
    const running: { id: PlacedNode['id']; need: Need }[] = []
    const { need } = chooseRequest()
    // Half of all room is in use, and what runs longest ends.
    for (let step = 0; step < 20_000; step++) {
      const choice = table.choose(chooseRequest())
      if (!('node' in choice)) throw new Error(choice.waiting.message)
      const { id } = choice.node
      table.reserve(id, need)
      given.set(id, (given.get(id) ?? 0) + 1)
      running.push({ id, need })
      const ended = running.length > count * 4 ? running.shift() : undefined
      if (ended) table.release(ended.id, ended.need)
    }
    expect(given.size).toBeGreaterThan(count * 0.8)
    expect(Math.max(...given.values())).toBeLessThan(3 * (20_000 / count))
  })

  it('gives work now and then to a node that others are better than', () => {
    const table = nodeTable({ random: seededRandom(9) })
    table.set(placedNode(1))
    table.set(placedNode(2, { trust: 0.05, speed: 0.5, established: false, agreements: 0 }))
    let given = 0
    for (let step = 0; step < 2000; step++) {
      const choice = table.choose(chooseRequest())
      if ('node' in choice && choice.node.id === nodeIdAt(2)) given++
    }
    expect(given).toBeGreaterThan(20)
    expect(given).toBeLessThan(100)
  })

  it('looks at as many nodes for a decision among a hundred thousand as among a thousand', () => {
    const probesFor = (count: number): number => {
      const random = seededRandom(3)
      const table = nodeTable({ random })
      const regions = ['eu', 'us']
      for (let index = 0; index < count; index++)
        table.set(placedNode(index, { report: { region: regions[index % 2], ...(index % 4 === 0 && { cpus: 0.5 }) } }))
      const before = table.probes
      for (let step = 0; step < 500; step++) {
        const choice = table.choose(chooseRequest({ regions: ['eu'] }))
        if ('node' in choice) table.reserve(choice.node.id, { cpus: 1, memoryMb: 512, gpus: 0 })
      }
      return table.probes - before
    }
    const small = probesFor(1000)
    const large = probesFor(100_000)
    expect(large).toBeLessThan(small * 1.2)
    expect(large / 500).toBeLessThan(64)
  })

  it('finds the one node with room among a full network without looking at the others', () => {
    const table = nodeTable({ random: seededRandom(3) })
    const { need } = chooseRequest()
    for (let index = 0; index < 10_000; index++) {
      const node = placedNode(index, { maxRunning: 1 })
      table.set(node)
      table.reserve(node.id, need)
    }
    table.release(nodeIdAt(4711), need)
    const before = table.probes
    expect(table.choose(chooseRequest())).toMatchObject({ node: { id: nodeIdAt(4711) } })
    expect(table.probes - before).toBe(1)
  })

  it('knows established nodes', () => {
    const table = nodeTable({ random: seededRandom(1) })
    table.set(placedNode(1))
    table.set(placedNode(2, { established: false }))
    expect(table.hasEstablished(new Set())).toBe(true)
    expect(table.hasEstablished(new Set([nodeIdAt(1)]))).toBe(false)
    table.remove(nodeIdAt(2))
    expect(table.size).toBe(1)
  })

  it('takes a name of an image for what most owners say, and established nodes before all others', () => {
    const table = nodeTable({ random: seededRandom(1) })
    const images = (letter: string, times = 1) => ({
      images: Array.from({ length: times }, () => ({ name: 'python', digest: digest(letter) })),
    })
    const others = { established: false }
    table.set(placedNode(1, { ...others, owner: 'a', report: images('b') }))
    table.set(placedNode(2, { ...others, owner: 'b', report: images('b') }))
    // One owner has many nodes, which say it many times.
    for (let node = 3; node < 9; node++)
      table.set(placedNode(node, { ...others, owner: 'liar', report: images('c', 256) }))
    expect(table.digestOf('python')).toBe(digest('b'))
    expect(table.digestOf('ruby')).toBeUndefined()
    table.set(placedNode(10, { owner: 'c', report: images('d') }))
    expect(table.digestOf('python')).toBe(digest('d'))
    table.set(placedNode(10, { owner: 'c', report: images('d'), status: 'offline' }))
    expect(table.digestOf('python')).toBe(digest('b'))
    table.remove(nodeIdAt(1))
    table.remove(nodeIdAt(2))
    expect(table.digestOf('python')).toBe(digest('c'))
  })
})
