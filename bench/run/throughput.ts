import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { findCgroups } from '@bramble/runtime'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { figuresOf, type Row, round } from './measure.ts'

const CLIENTS = 8

const countCgroups = (): number => {
  let count = 0
  for (const hierarchy of findCgroups()?.hierarchies ?? []) {
    try {
      for (const node of readdirSync(`${hierarchy}/bramble`, { withFileTypes: true }))
        if (node.isDirectory())
          count += readdirSync(`${hierarchy}/bramble/${node.name}`, { withFileTypes: true }).filter((e) =>
            e.isDirectory(),
          ).length
    } catch {}
  }
  return count
}

/** Namespaces that any process on the host holds, by kind and inode. */
const countNamespaces = (): number => {
  const seen = new Set<string>()
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    for (const kind of ['mnt', 'net', 'pid', 'user', 'ipc', 'uts', 'cgroup'])
      try {
        seen.add(readlinkSync(`/proc/${pid}/ns/${kind}`))
      } catch {}
  return seen.size
}

const mountsOf = (pid: number | 'self'): number => readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n').length

const launcherOf = (node: NodeProcess): number => {
  const children = readFileSync(`/proc/${node.pid}/task/${node.pid}/children`, 'utf8').trim().split(' ').map(Number)
  const found = children.find((pid) => readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'launcher')
  if (found === undefined) throw new Error('the node has no launcher')
  return found
}

/** What the host holds for a node, to be the same before and after. */
const holdings = (node: NodeProcess) => ({
  hostMounts: mountsOf('self'),
  launcherMounts: mountsOf(launcherOf(node)),
  cgroups: countCgroups(),
  namespaces: countNamespaces(),
  processes: readdirSync('/proc').filter((name) => /^\d+$/.test(name) && !isKernelThread(name)).length,
  descriptors: readdirSync(`/proc/${node.pid}/fd`).length,
  diskKb: Number(execFileSync('du', ['-sk', node.dataDirectory]).toString().split('\t')[0]),
})

const isKernelThread = (pid: string): boolean => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`).length === 0
  } catch {
    return true
  }
}

const settled = async (node: NodeProcess): Promise<void> => {
  for (;;) {
    const { items } = await node.call<{ items: { ready: number; starting: number; target: number }[] }>(
      'GET',
      '/api/v1/pools',
    )
    if (items.every((pool) => pool.starting === 0 && pool.ready === pool.target)) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Eight clients, each sending one command after the other, every command in its own fresh sandbox. */
export const throughput = async (options: { quick: boolean }): Promise<Row[]> => {
  const seconds = options.quick ? 5 : 30
  await using node = await startNodeProcess()
  await node.call('POST', '/api/v1/prewarm', { count: CLIENTS })
  await node.call('POST', '/api/v1/execute', { command: ['true'] })
  await settled(node)
  const before = holdings(node)
  const times: number[] = []
  let errors = 0
  const began = performance.now()
  const end = began + seconds * 1000
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      const { call, close } = node.client()
      while (performance.now() < end) {
        const sent = performance.now()
        try {
          const result = await call<{ exitCode: number }>('POST', '/api/v1/execute', {
            command: ['sh', '-c', 'echo $$ > /x'],
          })
          if (result.exitCode !== 0) errors++
        } catch {
          errors++
        }
        times.push(performance.now() - sent)
      }
      close()
    }),
  )
  const perSecond = times.length / ((performance.now() - began) / 1000)
  await node.call('POST', '/api/v1/prewarm', { count: CLIENTS })
  // Pools shrink to their floor, and the file system gives freed space back, in their own time: wait for both, bounded.
  let after = holdings(node)
  for (let waited = 0; waited < 120 && differences(before, after).length > 0; waited++) {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    after = holdings(node)
  }
  const left = differences(before, after)
  return [
    {
      name: `${CLIENTS} clients for ${seconds} s, a fresh sandbox each`,
      figures: { perSecond: round(perSecond, 1), ...figuresOf(times), unit: 'ms', errors },
      goal: '>= 40 a second, no error',
      reached: perSecond >= 40 && errors === 0,
    },
    {
      name: 'left over after that',
      figures: { left: left.length === 0 ? 'nothing' : left.join(', '), ...after },
      goal: 'as before',
      reached: left.length === 0,
    },
  ]
}

/** Disk may differ by what the journals of two databases hold. */
const DISK_SLACK_KB = 16 * 1024

const differences = (before: ReturnType<typeof holdings>, after: ReturnType<typeof holdings>): string[] =>
  Object.entries(before).flatMap(([name, value]) => {
    const now = after[name as keyof typeof after]
    const slack = name === 'diskKb' ? DISK_SLACK_KB : 0
    return now > value + slack ? [`${name} ${value} -> ${now}`] : []
  })
