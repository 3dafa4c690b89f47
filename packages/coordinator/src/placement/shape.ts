import { capacityOf, fits, lacks, type Shape, sharedWith } from './needs.ts'
import type { ChooseRequest, PlacedNode } from './placement.ts'

/** Two parts: what is asked of any node, and what the job's other executions exclude. */
interface ReadShape {
  readonly base: Shape
  readonly apart: Pick<ChooseRequest, 'others' | 'distinct'>
}

const sorted = (values: readonly string[] | undefined): readonly string[] | undefined => values && [...values].sort()

/** Everything that `choose` looks at, as the queue wants it: equal for requests that the same nodes can serve. */
export const shapeOf = (request: ChooseRequest): string => {
  const { need, isolation, image, regions, gpuModel, nodeLabels, established, others, distinct } = request
  const labels = nodeLabels && Object.fromEntries(Object.entries(nodeLabels).sort(([a], [b]) => (a < b ? -1 : 1)))
  const base: Shape = {
    need: { cpus: need.cpus, memoryMb: need.memoryMb, gpus: need.gpus },
    image: { name: image.name, ...(image.digest !== undefined && { digest: image.digest }) },
    established,
    ...(isolation !== undefined && { isolation }),
    ...(regions !== undefined && { regions: sorted(regions) ?? [] }),
    ...(gpuModel !== undefined && { gpuModel }),
    ...(labels !== undefined && { nodeLabels: labels }),
  }
  if (others.length === 0) return JSON.stringify([base])
  const apart = others
    .map(({ node, owner, machine, subnet }) => ({ node, owner, machine, subnet }))
    .sort((a, b) => (a.node < b.node ? -1 : 1))
  return JSON.stringify([base, apart, sorted(distinct)])
}

/** The part that is the same for all jobs of a kind, as a key. */
export const splitShape = (shape: string): { readonly base: string; readonly read: ReadShape } => {
  const [base, others = [], distinct = []] = JSON.parse(shape)
  return { base: JSON.stringify(base), read: { base, apart: { others, distinct } } }
}

/** Whether that node, with so much room, would run it if the job had no other executions. */
export const suits = (base: Shape, node: PlacedNode, room: Parameters<typeof fits>[1] | undefined): boolean => {
  const capacity = capacityOf(node)
  return node.status === 'online' && fits(base.need, room ?? capacity) && lacks(base, node, capacity) === undefined
}

export const excludes = (apart: ReadShape['apart'], node: PlacedNode): boolean => sharedWith(apart, node) !== undefined
