import type { JobId } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import { nodeTable } from './node-table.ts'
import type { ChooseRequest, PlacedNode } from './placement.ts'
import { shapeOf } from './shape.ts'
import { chooseRequest, jobIdAt, nodeIdAt, placedNode, seededRandom, standingOf } from './testing.ts'
import { waitingQueue } from './waiting-queue.ts'

const plain = shapeOf(chooseRequest())
const large = shapeOf(chooseRequest({ need: { cpus: 4, memoryMb: 512, gpus: 0 } }))

describe('waitingQueue', () => {
  it('serves a tenant by priority, then by age', () => {
    const queue = waitingQueue()
    const [a, b, c] = [jobIdAt(1000), jobIdAt(2000), jobIdAt(3000)]
    queue.add(b, 't', 50, plain, 1)
    queue.add(c, 't', 80, large, 1)
    queue.add(a, 't', 50, plain, 1)
    const order: (JobId | undefined)[] = []
    for (let id = queue.next(); id !== undefined; id = queue.next()) {
      order.push(id)
      queue.remove(id)
    }
    expect(order).toEqual([c, a, b])
    expect(queue.size).toBe(0)
  })

  it('lets what is urgent pass what has waited only for so long', () => {
    const queue = waitingQueue()
    const old = jobIdAt(0)
    queue.add(old, 't', 0, plain, 1)
    let passed = 0
    for (let now = 1000; ; now += 1000) {
      queue.add(jobIdAt(now), 't', 100, plain, 1)
      const id = queue.next()
      if (id === undefined) throw new Error('nothing is blocked')
      queue.remove(id)
      if (id === old) break
      passed++
    }
    // A hundred points of priority are a thousand seconds of age.
    expect(passed).toBe(999)
  })

  it('shares between tenants by what they are given, within one job of each', () => {
    const random = seededRandom(5)
    const queue = waitingQueue()
    const costs = new Map([
      ['many', 1],
      ['large', 7],
      ['mixed', 0],
    ])
    const given = new Map([...costs.keys()].map((tenant) => [tenant, 0]))
    const jobs = new Map<JobId, { tenant: string; cost: number }>()
    let now = 0
    const submit = (tenant: string): void => {
      const cost = costs.get(tenant) || 1 + Math.floor(random() * 7)
      const id = jobIdAt(++now)
      jobs.set(id, { tenant, cost })
      queue.add(id, tenant, Math.floor(random() * 100), random() < 0.5 ? plain : large, cost)
    }
    for (const tenant of costs.keys()) for (let count = 0; count < 20; count++) submit(tenant)
    // One that has asked for much more has no more of it.
    for (let count = 0; count < 500; count++) submit('many')
    for (let step = 0; step < 3000; step++) {
      const id = queue.next()
      const job = id && jobs.get(id)
      if (!job) throw new Error('a queue with jobs gives one')
      queue.remove(id)
      given.set(job.tenant, (given.get(job.tenant) ?? 0) + job.cost)
      submit(job.tenant)
      expect(Math.max(...given.values()) - Math.min(...given.values())).toBeLessThanOrEqual(14)
    }
    // One that comes late has its share from now on, and nothing for what it did not ask for.
    for (let count = 0; count < 20; count++) submit('large2')
    costs.set('large2', 7)
    const before = Math.min(...given.values())
    given.set('large2', before)
    for (let step = 0; step < 10; step++) {
      const id = queue.next()
      const job = id && jobs.get(id)
      if (!job) throw new Error('a queue with jobs gives one')
      queue.remove(id)
      given.set(job.tenant, (given.get(job.tenant) ?? 0) + job.cost)
      submit(job.tenant)
    }
    expect((given.get('large2') ?? 0) - before).toBeLessThanOrEqual(28)
  })

  it('offers exactly what something may have changed for', () => {
    const nodes = Array.from({ length: 6 }, (_, index) =>
      placedNode(index, { owner: `owner-${index % 3}`, report: { cpus: index % 2 === 0 ? 8 : 2 } }),
    )
    let offers = 0
    let refusals = 0
    for (let seed = 1; seed <= 200; seed++) {
      const random = seededRandom(seed)
      const queue = waitingQueue()
      const waiting = new Map<JobId, { request: ChooseRequest; key: string; base: string }>()
      /** All that came free, and how many had when a tenant's shape, or a need, was found to have no room. */
      const freed: { node: PlacedNode; cpus: number }[] = []
      const blockedAt = new Map<string, number>()
      const may = ({ request, key, base }: { request: ChooseRequest; key: string; base: string }): boolean => {
        const since = Math.max(blockedAt.get(key) ?? -1, blockedAt.get(base) ?? -1)
        return (
          since < 0 ||
          freed
            .slice(since)
            .some(
              ({ node, cpus }) =>
                cpus >= request.need.cpus && !request.others.some(({ owner }) => owner === node.owner),
            )
        )
      }
      /** What is known of a shape goes with the last job that has it. */
      const forget = (id: JobId): void => {
        waiting.delete(id)
        const left = new Set([...waiting.values()].flatMap(({ key, base }) => [key, base]))
        for (const key of blockedAt.keys()) if (!left.has(key)) blockedAt.delete(key)
      }
      for (let step = 0; step < 150; step++) {
        const what = random()
        if (what < 0.3) {
          const request = chooseRequest({
            need: { cpus: random() < 0.5 ? 1 : 4, memoryMb: 512, gpus: 0 },
            others: nodes.filter(() => random() < 0.2).map(standingOf),
            distinct: ['owner'],
          })
          const id = jobIdAt(Math.floor(random() * 1e6), random)
          const tenant = `t${Math.floor(random() * 3)}`
          const shape = shapeOf(request)
          waiting.set(id, { request, key: `${tenant} ${shape}`, base: shapeOf({ ...request, others: [] }) })
          queue.add(id, tenant, Math.floor(random() * 100), shape, 1)
        } else if (what < 0.4) {
          const [id] = [...waiting.keys()].slice(Math.floor(random() * waiting.size))
          if (id === undefined) continue
          queue.remove(id)
          forget(id)
        } else if (what < 0.55) {
          const node = nodes[Math.floor(random() * nodes.length)] as PlacedNode
          const cpus = random() < 0.5 ? node.report.cpus : 1
          queue.unblock(node, { slots: 1, cpus, memoryMb: 4096, gpus: 0 })
          freed.push({ node, cpus })
        } else {
          const id = queue.next()
          const allowed = [...waiting.values()].filter(may)
          const job = id && waiting.get(id)
          if (id === undefined || job === undefined) {
            refusals++
            expect(id).toBeUndefined()
            expect(allowed).toEqual([])
            continue
          }
          offers++
          expect(allowed).toContain(job)
          if (random() < 0.3) {
            queue.remove(id)
            forget(id)
          } else {
            const isFull = random() < 0.5
            queue.block(id, isFull)
            blockedAt.set(job.key, freed.length)
            if (isFull) blockedAt.set(job.base, freed.length)
          }
        }
        expect(queue.size).toBe(waiting.size)
      }
    }
    expect(offers).toBeGreaterThan(3000)
    expect(refusals).toBeGreaterThan(500)
  })

  it('asks a full network twice for each place that comes free, however many wait', () => {
    const triesFor = (jobs: number): number => {
      const random = seededRandom(11)
      const table = nodeTable({ random })
      const queue = waitingQueue()
      const requests = new Map<JobId, ChooseRequest>()
      for (let index = 0; index < 50; index++)
        table.set(placedNode(index, { owner: `owner-${index % 5}`, maxRunning: 2 }))
      for (let index = 0; index < jobs; index++) {
        const id = jobIdAt(index, random)
        const other = table.get(nodeIdAt(Math.floor(random() * 50)))
        const request = chooseRequest({ job: id, others: other && random() < 0.5 ? [standingOf(other)] : [] })
        requests.set(id, request)
        queue.add(id, `tenant-${index % 7}`, 50, shapeOf(request), 1)
      }
      const running: { node: PlacedNode; request: ChooseRequest }[] = []
      let tries = 0
      const drain = (): void => {
        for (let id = queue.next(); id !== undefined; id = queue.next()) {
          const request = requests.get(id)
          if (request === undefined) throw new Error('it is offered what waits')
          tries++
          const choice = table.choose(request)
          if (!('node' in choice)) {
            queue.block(id, choice.full)
            continue
          }
          queue.remove(id)
          table.reserve(choice.node.id, request.need)
          running.push({ node: choice.node, request })
        }
      }
      drain()
      expect(running).toHaveLength(100)
      tries = 0
      for (let ended = 0; ended < 300; ended++) {
        const [{ node, request } = { node: undefined, request: undefined }] = running.splice(
          Math.floor(random() * running.length),
          1,
        )
        if (node === undefined) throw new Error('the network is full')
        table.release(node.id, request.need)
        queue.unblock(node, table.free(node.id))
        drain()
        expect(running).toHaveLength(100)
      }
      return tries
    }
    expect(triesFor(1000)).toBeLessThanOrEqual(600)
    expect(triesFor(10_000)).toBeLessThanOrEqual(600)
  })
})
