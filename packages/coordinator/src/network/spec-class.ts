import { createHash } from 'node:crypto'
import { canonicalJson, type JobRequest, type Json } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import type { WriterContext } from './writer-context.ts'

/**
 * How far results of a spec are the same from node to node, as a check of it found; kept for the latest specs checked. What one
 * tenant's check found holds for that tenant: whoever has nodes that lie could else have them go unpunished for everybody.
 */
export type SpecClass = NonNullable<JobState['determinismClass']>

const MAX_CLASSES = 10_000
const KIND = 'class'

const digestOf = (tenant: string, { spec, comparator }: JobRequest): string => {
  const { labels: _labels, ...run } = spec
  return createHash('sha256')
    .update(canonicalJson({ tenant, run, comparator } as unknown as Json))
    .digest('hex')
}

export const classOf = (w: WriterContext, tenant: string, request: JobRequest): SpecClass | undefined =>
  w.classes.size === 0 ? undefined : w.classes.get(digestOf(tenant, request))

/** Of a job that has ended: what a check found is known of all later jobs of its spec. */
export const noteClass = (w: WriterContext, { tenant, request, determinismClass }: JobState): void => {
  if (request.determinism !== 'check' || determinismClass === undefined) return
  const id = digestOf(tenant, request)
  w.classes.delete(id)
  w.classes.set(id, determinismClass)
  const documents = [{ kind: KIND, id, value: determinismClass as SpecClass | undefined }]
  if (w.classes.size > MAX_CLASSES)
    for (const oldest of w.classes.keys()) {
      w.classes.delete(oldest)
      documents.push({ kind: KIND, id: oldest, value: undefined })
      break
    }
  w.journal.add({ documents })
}

export const loadClass = (w: WriterContext, kind: string, id: string, value: unknown): void => {
  if (kind === KIND && (value === 'exact' || value === 'fuzzy' || value === 'none')) w.classes.set(id, value)
}
