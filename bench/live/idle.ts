import { readFileSync } from 'node:fs'
import { startNodeProcess } from '../../test/node-process.ts'
import { quantile, type Row, round, timed } from '../run/measure.ts'
import { chargedBytes, cpuSeconds, pssBytes } from './host-use.ts'
import { deleteInstance, startInstance } from './instance.ts'

const COUNT = 200
const WATCHED_SECONDS = 20

const available = (): number =>
  Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]) * 1024

/** Two hundred instances that nobody uses: how long each takes to start, what they cost together. */
export const idle = async (options: { quick: boolean }): Promise<Row[]> => {
  const count = options.quick ? 40 : COUNT
  await using node = await startNodeProcess({ BRAMBLE_MAX_POOLED: '0' })
  const spec = { resources: { memoryMb: 64, diskMb: 64 } }
  for (let i = 0; i < 5; i++) await deleteInstance(node, await startInstance(node, spec))
  const before = available()
  const ids: string[] = []
  const times: number[] = []
  for (let i = 0; i < count; i++)
    times.push(
      await timed(async () => {
        ids.push(await startInstance(node, spec))
      }),
    )
  const group = Math.min(20, count / 4)
  const first = quantile(times.slice(0, group), 0.5)
  const last = quantile(times.slice(-group), 0.5)
  const used = before - available()
  const together = pssBytes(node) + chargedBytes(node)
  const beganCpu = cpuSeconds(node)
  await new Promise((resolve) => setTimeout(resolve, WATCHED_SECONDS * 1000))
  const share = (cpuSeconds(node) - beganCpu) / WATCHED_SECONDS
  for (const id of ids) await deleteInstance(node, id)
  return [
    {
      name: `start of ${count} instances, one after the other`,
      figures: { firstP50: round(first), lastP50: round(last), unit: 'ms', of: group, ratio: round(last / first) },
      goal: 'the last within 1.3 times the first',
      reached: last <= first * 1.3,
    },
    {
      name: `${count} idle instances, node, launcher and kernel together`,
      figures: {
        mb: round(together / 1e6, 0),
        hostMemoryMb: round(used / 1e6, 0),
        nodeMb: round(node.rssBytes() / 1e6, 0),
      },
      goal: '< 1500 MB',
      reached: together < 1.5e9,
    },
    {
      name: `${count} idle instances for ${WATCHED_SECONDS} s: processor time of node, launcher and sandboxes`,
      figures: { percentOfOneCore: round(share * 100, 2) },
      goal: '< 2%',
      reached: share < 0.02,
    },
  ]
}
