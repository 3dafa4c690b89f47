import type { Distinct } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import type { Need } from '../placement/placement.ts'
import type { WriterContext } from './writer-context.ts'

export const needOf = ({ request }: JobState): Need => {
  const { cpus, memoryMb, gpus } = request.spec.resources
  return { cpus, memoryMb, gpus }
}

export const distinctOf = (w: WriterContext, { request }: JobState): readonly Distinct[] =>
  request.placement.distinct ?? w.config.distinct

/** Everything that placement looks at, but for where the job's other executions are: jobs of one shape wait for the same. */
export const shapeOf = (w: WriterContext, job: JobState): string => {
  const { spec, placement } = job.request
  const { cpus, memoryMb, gpus } = spec.resources
  const { distinct: _distinct, ...where } = placement
  const more = Object.keys(where).length > 0 ? JSON.stringify(where) : ''
  return `${cpus}/${memoryMb}/${gpus}/${spec.isolation ?? ''}/${job.imageDigest ?? spec.image}/${distinctOf(w, job).join()}/${more}`
}
