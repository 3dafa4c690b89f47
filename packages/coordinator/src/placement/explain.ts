import type { NodeStatus, Waiting } from '@bramble/protocol'
import { type Constraint, lacks, type Shape, sharedWith } from './needs.ts'
import type { NodeIndex } from './node-index.ts'
import type { ChooseRequest } from './placement.ts'

/** What is said of one node, and of several. */
const WORDS: Readonly<Record<Constraint, readonly [one: string, many: string]>> = {
  offline: ['is offline', 'are offline'],
  drained: ['is draining', 'are draining'],
  suspended: ['is suspended', 'are suspended'],
  established: ['is not established', 'are not established'],
  isolation: ['does not offer that isolation', 'do not offer that isolation'],
  region: ['is in another region', 'are in another region'],
  gpu: ['has no such GPU', 'have no such GPU'],
  labels: ['has not these labels', 'have not these labels'],
  cpus: ['has too few processors', 'have too few processors'],
  memory: ['has too little memory', 'have too little memory'],
  image: ['has not got the image', 'have not got the image'],
  node: ['runs this job already', 'run this job already'],
  owner: ['is of the same owner', 'are of the same owner'],
  machine: ['is on the same machine', 'are on the same machine'],
  subnet: ['is in the same subnet', 'are in the same subnet'],
  busy: ['is busy', 'are busy'],
}

const ABSENT: Readonly<Record<Exclude<NodeStatus, 'online'>, Constraint>> = {
  suspect: 'offline',
  offline: 'offline',
  draining: 'drained',
  drained: 'drained',
  suspended: 'suspended',
}

/** Beyond it, nodes of a large set are looked at no further once one is found that is only busy. */
const SCAN_NODES = 4096

export type Explanation = Omit<Waiting, 'since'>

/** `3 nodes: 2 have too little memory, 1 is of the same owner`. */
export const messageOf = (nodes: number, counts: Readonly<Record<string, number>>): string => {
  if (nodes === 0) return 'no node has joined'
  const parts = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([constraint, count]) => `${count} ${WORDS[constraint]?.[count === 1 ? 0 : 1] ?? constraint}`)
  return `${nodes} ${nodes === 1 ? 'node' : 'nodes'}: ${parts.join(', ')}`
}

export interface ExplainOptions {
  readonly index: NodeIndex
  readonly byStatus: ReadonlyMap<NodeStatus, number>
  readonly random: () => number
}

/** Why no node takes it: of those that are known, how many each constraint stops; each counts at its first. */
export const explain = (
  { index, byStatus, random }: ExplainOptions,
  shape: Shape,
  others: Pick<ChooseRequest, 'others' | 'distinct'>,
): { waiting: Explanation; never: boolean; looked: number } => {
  const stopped: Record<string, number> = {}
  const count = (constraint: Constraint, by = 1): void => {
    if (by > 0) stopped[constraint] = (stopped[constraint] ?? 0) + by
  }
  for (const [status, nodes] of byStatus) if (status !== 'online') count(ABSENT[status], nodes)
  const pool = index.smallest(shape)
  count(pool.constraint, index.online.size - pool.size)
  let busy = 0
  let looked = 0
  const start = Math.floor(random() * pool.size)
  for (; looked < pool.size && (looked < SCAN_NODES || busy === 0); looked++) {
    const entry = pool.at((start + looked) % pool.size)
    if (entry === undefined) continue
    const constraint = lacks(shape, entry.node, entry.capacity) ?? sharedWith(others, entry.node)
    if (constraint === undefined) busy++
    else count(constraint)
  }
  const nodes = Object.values(stopped).reduce((sum, each) => sum + each, busy)
  const message = messageOf(nodes, { ...stopped, busy })
  return { waiting: { nodes, busy, stopped, message }, never: busy === 0 && index.online.size > 0, looked }
}
