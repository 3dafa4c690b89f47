import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { findCgroups } from '@bramble/runtime'
import type { NodeProcess } from '../../test/node-process.ts'

const TICKS_PER_SECOND = 100

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** The node's process and its launcher. */
const processes = ({ pid, dataDirectory }: NodeProcess): number[] => {
  const launchers = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      const words = read(`/proc/${name}/cmdline`).split('\0')
      return words[0]?.endsWith('/launcher') && words.some((word) => word.startsWith(dataDirectory))
    })
  return [pid, ...launchers.map(Number)]
}

/** Private memory and a share of what is shared (PSS) of the node and its launcher. */
export const pssBytes = (node: NodeProcess): number =>
  processes(node).reduce(
    (sum, pid) => sum + Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) * 1024,
    0,
  )

/** The cgroups of the node's sandboxes, below the hierarchy that `controller` is in. */
const sandboxCgroups = (controller: 'memory' | 'cpuacct', node: NodeProcess): string[] => {
  // The driver's own name for its directory: `nodeNameOf` of the `oci` runtime.
  const name = createHash('sha256')
    .update(realpathSync(join(node.dataDirectory, 'oci')))
    .digest('hex')
    .slice(0, 12)
  const root = `${findCgroups()?.controller(controller)}/bramble/${name}`
  return readdirSync(root, { withFileTypes: true })
    .filter((box) => box.isDirectory())
    .map((box) => `${root}/${box.name}`)
}

/** Processes of the node's sandboxes, by their pids on the host. */
export const sandboxPids = (node: NodeProcess): number[] =>
  sandboxCgroups('memory', node).flatMap((at) => read(`${at}/cgroup.procs`).split('\n').filter(Boolean).map(Number))

/** What the sandboxes' cgroups are charged, the kernel's own memory for them included. */
export const chargedBytes = (node: NodeProcess): number =>
  sandboxCgroups('memory', node).reduce(
    (sum, at) => sum + Number(read(`${at}/memory.current`) || read(`${at}/memory.usage_in_bytes`)),
    0,
  )

/** Processor time of one process, without its children's. */
export const processSeconds = (pid: number): number => {
  const fields = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / TICKS_PER_SECOND
}

/** Processor time of everything in the sandboxes, their agents included. */
export const sandboxSeconds = (node: NodeProcess): number =>
  sandboxCgroups('cpuacct', node).reduce((sum, at) => {
    const usage = read(`${at}/cpuacct.usage`)
    const micros = Number(/^usage_usec (\d+)/m.exec(read(`${at}/cpu.stat`))?.[1] ?? 0)
    return sum + (usage === '' ? micros / 1e6 : Number(usage) / 1e9)
  }, 0)

/** Processor time of the node, its launcher, and everything in the sandboxes. */
export const cpuSeconds = (node: NodeProcess): number =>
  processes(node).reduce((sum, pid) => sum + processSeconds(pid), sandboxSeconds(node))
