import type { Bramble, Job } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'
import { ofNetwork } from './network-call.ts'

const PAGE = 500
/** Jobs, newest first, among which a short id or a name is looked for. */
const MAX_LOOKED_AT = 2_000

/** A job by its id, the end of it as `bramble list` shows it, or its name; of several of one name, the newest. */
export const findJob = async (bramble: Bramble, ref: string, signal?: AbortSignal): Promise<Job> => {
  if (/^job_[0-9a-z]{26}$/.test(ref)) return ofNetwork(bramble.jobs.get(ref, { signal }))
  const isEnd = /^[0-9a-z]{4,26}$/.test(ref)
  const byEnd: Job[] = []
  let byName: Job | undefined
  let looked = 0
  const list = bramble.jobs.list({ limit: PAGE, signal }).pages()[Symbol.asyncIterator]()
  for (;;) {
    const step = await ofNetwork(list.next())
    if (step.done) break
    for (const job of step.value.items) {
      if (isEnd && job.id.endsWith(ref)) byEnd.push(job)
      if (job.name === ref) byName ??= job
    }
    looked += step.value.items.length
    if (looked >= MAX_LOOKED_AT) break
  }
  const [found, other] = byEnd
  if (found !== undefined && other !== undefined)
    throw new ExitError(EXIT.failure, `${ref} is the end of ${found.id} and of ${other.id}`, 'Give more of it.')
  const job = found ?? byName
  if (job !== undefined) return job
  const hint = '`bramble list` shows them; a job that is older than those needs its whole id.'
  throw new ExitError(EXIT.failure, `no job ${JSON.stringify(ref)} among the last ${looked}`, hint)
}
