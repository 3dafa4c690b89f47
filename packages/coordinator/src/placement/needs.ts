import type { Waiting } from '@bramble/protocol'
import type { ChooseRequest, Need, PlacedNode } from './placement.ts'

/** What a request asks of any node, whoever else runs the job: `choose` and the queue read it alike. */
export type Shape = Omit<ChooseRequest, 'job' | 'others' | 'distinct' | 'failed'>

/** What of a node is taken or free. Processors in thousandths, so that sums are exact. */
export interface Room {
  slots: number
  milliCpus: number
  memoryMb: number
  gpus: number
}

export type Constraint = keyof Waiting['stopped']

export const milliCpusOf = (cpus: number): number => Math.round(cpus * 1000)

/** All that the node would have if nothing ran on it. */
export const capacityOf = ({ report, maxRunning }: PlacedNode): Room => ({
  slots: Math.min(report.slots, maxRunning),
  milliCpus: milliCpusOf(report.cpus),
  memoryMb: report.memoryMb,
  gpus: report.gpus.length,
})

export const fits = (need: Need, room: Room): boolean =>
  room.slots >= 1 &&
  room.milliCpus >= milliCpusOf(need.cpus) &&
  room.memoryMb >= need.memoryMb &&
  room.gpus >= need.gpus

const DIGEST = /^sha256:[0-9a-f]{64}$/

/** `registry.example:5000/team/app:v1` or `app@sha256:…`: a node that has not got it knows where to ask. */
const canBePulled = (name: string): boolean => {
  if (name.includes('@sha256:')) return true
  const slash = name.indexOf('/')
  const host = name.slice(0, Math.max(0, slash))
  return host.includes('.') || host.includes(':') || host === 'localhost'
}

export const hasImage = ({ report }: PlacedNode, { name, digest }: ChooseRequest['image']): boolean =>
  digest === undefined
    ? report.images.some((image) => image.name === name || image.digest === name)
    : report.images.some((image) => image.digest === digest)

/** Whether only nodes that have it will do. */
export const imageIsLocal = ({ name }: ChooseRequest['image']): boolean => DIGEST.test(name) || !canBePulled(name)

/** The first thing that a node lacks for good; undefined for one that would do if it were idle. */
export const lacks = (shape: Shape, node: PlacedNode, capacity: Room): Constraint | undefined => {
  const { report } = node
  const { need, isolation, regions, gpuModel, nodeLabels, image } = shape
  if (shape.established && !node.established) return 'established'
  if (isolation !== undefined && !report.isolation.includes(isolation)) return 'isolation'
  if (regions !== undefined && !(report.region !== undefined && regions.includes(report.region))) return 'region'
  if (need.gpus > capacity.gpus) return 'gpu'
  if (gpuModel !== undefined && !report.gpus.some(({ model }) => model === gpuModel)) return 'gpu'
  if (nodeLabels !== undefined)
    for (const name in nodeLabels) if (report.labels[name] !== nodeLabels[name]) return 'labels'
  if (milliCpusOf(need.cpus) > capacity.milliCpus) return 'cpus'
  if (need.memoryMb > capacity.memoryMb) return 'memory'
  if (imageIsLocal(image) && !hasImage(node, image)) return 'image'
  return undefined
}

/** What keeps a node from running a job beside its other executions. */
export const sharedWith = (
  { others, distinct }: Pick<ChooseRequest, 'others' | 'distinct'>,
  node: PlacedNode,
): Constraint | undefined => {
  for (const other of others) {
    if (other.node === node.id) return 'node'
    for (const what of distinct) {
      const own = what === 'machine' ? node.report.machine : node[what]
      if (other[what] === own) return what
    }
  }
  return undefined
}
