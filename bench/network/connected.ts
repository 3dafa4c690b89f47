import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Row, round } from '../run/measure.ts'
import { STORES, startCoordinator } from './load/coordinator.ts'
import { openHttpPool } from './load/http-pool.ts'
import { openWorkers } from './load/workers.ts'

/** Descriptors that each process here needs beside one for each node. */
const SPARE_FILES = 500

/** The most files that this process may have open (proc(5)), which its children inherit. */
const filesMax = (): number => {
  const line = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return Number(line?.[1] ?? 1024)
}

/**
 * Many nodes that have nothing to do: each registered, with a stream of its own over a socket and its heartbeats. What one
 * coordinator uses meanwhile.
 */
export const connected = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const wanted = quick ? 1000 : 10_000
  const count = Math.min(wanted, filesMax() - SPARE_FILES)
  const rows: Row[] = []
  for (const openStore of STORES) {
    await using place = await openStore()
    await using coordinator = await startCoordinator({ store: place.store, maxRegistrations: 10_000 })
    using api = await openHttpPool(coordinator.url, coordinator.key, 32)
    const empty = await coordinator.usage()
    const began = performance.now()
    await using workers = await openWorkers({ url: coordinator.url, api, count, anchors: false, atOnce: 64 })
    const joinedMs = performance.now() - began
    const seconds = quick ? 8 : 60
    const before = await coordinator.usage()
    await delay(seconds * 1000)
    const after = await coordinator.usage()
    const share = (after.cpuMs - before.cpuMs) / (seconds * 1000)
    const rssMb = after.rssBytes / 1e6
    const open = workers.sessions.filter(({ state }) => state === 'open').length
    rows.push({
      name: `${open} connected nodes, ${place.called}`,
      figures: {
        joinedPerSecond: round((count * 1000) / joinedMs, 0),
        shareOfCore: round(share, 3),
        rssMb: round(rssMb, 0),
        kbPerNode: round((after.rssBytes - empty.rssBytes) / count / 1000, 1),
      },
      goal: '10,000 nodes: <= 0.25 of a core, <= 500 MB',
      reached: open === count && count >= wanted && share <= (0.25 * count) / 10_000 && rssMb <= 500,
    })
  }
  return rows
}
