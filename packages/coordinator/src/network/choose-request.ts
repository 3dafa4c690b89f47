import type { Distinct } from '@bramble/protocol'
import { nodesThatFailed, standingsInUse } from '../core/groups.ts'
import type { JobState } from '../core/job-state.ts'
import type { ChooseRequest, Need } from '../placement/placement.ts'
import type { WriterContext } from './writer-context.ts'

export const needOf = ({ request }: JobState): Need => {
  const { cpus, memoryMb, gpus } = request.spec.resources
  return { cpus, memoryMb, gpus }
}

const distinctOf = (w: WriterContext, { request }: JobState): readonly Distinct[] =>
  request.placement.distinct ?? w.config.distinct

/** What the next execution that a job wants asks of a node. */
export const chooseRequestOf = (w: WriterContext, job: JobState): ChooseRequest => {
  const { spec, placement } = job.request
  return {
    job: job.id,
    need: needOf(job),
    ...(spec.isolation && { isolation: spec.isolation }),
    image: { name: spec.image, ...(job.imageDigest !== undefined && { digest: job.imageDigest }) },
    ...(placement.regions && { regions: placement.regions }),
    ...(placement.gpuModel !== undefined && { gpuModel: placement.gpuModel }),
    ...(placement.nodeLabels && { nodeLabels: placement.nodeLabels }),
    established: job.wanted[0]?.established ?? false,
    others: standingsInUse(job),
    distinct: distinctOf(w, job),
    failed: nodesThatFailed(job),
  }
}
