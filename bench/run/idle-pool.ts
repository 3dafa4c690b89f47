import { readdirSync, readFileSync } from 'node:fs'
import { findCgroups } from '@bramble/runtime'
import { prewarm, startNodeProcess } from '../../test/node-process.ts'
import { type Row, round } from './measure.ts'

const COUNT = 100

const available = (): number =>
  Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]) * 1024

/** Private memory of the agents (PSS, so shared pages count once among them all). */
const agentPssBytes = (): number => {
  let bytes = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('/.bramble/agent')) continue
      bytes += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]) * 1024
    } catch {}
  return bytes
}

/** What the sandboxes' cgroups are charged, and the kernel's own part of it where it is told apart. */
const chargedBytes = (): { charged: number; kernel: number } => {
  const cgroups = findCgroups()
  const memory = cgroups?.controller('memory')
  let charged = 0
  let kernel = 0
  for (const node of readdirSync(`${memory}/bramble`, { withFileTypes: true }).filter((entry) => entry.isDirectory()))
    for (const box of readdirSync(`${memory}/bramble/${node.name}`, { withFileTypes: true }).filter((e) =>
      e.isDirectory(),
    )) {
      const at = `${memory}/bramble/${node.name}/${box.name}`
      if (cgroups?.version === 2) {
        charged += Number(readFileSync(`${at}/memory.current`, 'utf8'))
        kernel += Number(/^kernel (\d+)/m.exec(readFileSync(`${at}/memory.stat`, 'utf8'))?.[1] ?? 0)
      } else {
        charged += Number(readFileSync(`${at}/memory.usage_in_bytes`, 'utf8'))
        kernel += Number(readFileSync(`${at}/memory.kmem.usage_in_bytes`, 'utf8'))
      }
    }
  return { charged, kernel }
}

/** One hundred sandboxes that wait in the pool: what each costs, and the node that keeps them. */
export const idlePool = async (): Promise<Row[]> => {
  await using node = await startNodeProcess()
  await prewarm(node, 1)
  const before = available()
  await prewarm(node, COUNT)
  const host = (before - available()) / COUNT
  const { charged, kernel } = chargedBytes()
  const each = (charged - kernel) / COUNT
  const rss = node.rssBytes()
  return [
    {
      name: `an idle pooled sandbox (${COUNT} of them)`,
      figures: {
        chargedBeyondKernelMb: round(each / 1e6, 3),
        agentPssMb: round(agentPssBytes() / COUNT / 1e6, 3),
        kernelMb: round(kernel / COUNT / 1e6, 3),
        hostMemoryMb: round(host / 1e6, 3),
      },
      goal: '< 2 MB beyond the kernel',
      reached: each < 2e6,
    },
    {
      name: `the node with ${COUNT} pooled sandboxes`,
      figures: { rssMb: round(rss / 1e6, 1) },
      goal: '< 200 MB',
      reached: rss < 200e6,
    },
  ]
}
