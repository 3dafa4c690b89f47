import { sha256Hex } from '@bramble/identity'
import {
  BrambleError,
  type Job,
  type JobEvent,
  type JobEvidence,
  type JobExecution,
  type JobRequestInput,
  type JobStatus,
  jobEvidenceSchema,
  jobExecutionSchema,
  jobSchema,
  newId,
  pageSchema,
  type ResultContent,
} from '@bramble/protocol'
import type { Blobs } from '../blobs.ts'
import { outputBytes } from '../bytes.ts'
import type { CallOptions } from '../call.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import { type JobEventsOptions, type JobsContext, jobEvents, jobPath } from './job-events.ts'
import { type EvidenceReport, type VerifyOptions, verifyReceipts } from './verify-receipts.ts'
import { getJob, type WaitOptions, waitForJob } from './wait-for-job.ts'

export interface SubmitOptions extends CallOptions {
  /** Names this submission: sent again, also by another process, it is the same job. Default: one of its own. */
  readonly idempotencyKey?: string | undefined
}

export interface JobsQuery extends ListQuery {
  readonly status?: JobStatus | undefined
  /** `name`, or `name=value`. */
  readonly label?: string | undefined
}

/** Work for a network: it runs on several nodes, and only a result on which enough of them agree is its result. */
export interface Jobs {
  /** Resolves when the job is durable; nothing has run then. */
  submit(request: JobRequestInput, options?: SubmitOptions): Promise<Job>
  get(id: string, options?: CallOptions): Promise<Job>
  /** Newest first. */
  list(query?: JobsQuery): PagedList<Job>
  /** Resolves with the job once it has ended, completed or not. */
  wait(id: string, options?: WaitOptions): Promise<Job>
  /** The job as it is, then what happens, until it has ended. A lost connection is made anew. */
  events(id: string, options?: JobEventsOptions): AsyncIterable<JobEvent>
  /** Its replicas; what came of them only once there is a verdict. */
  executions(id: string, options?: CallOptions): Promise<JobExecution[]>
  /** Resolves with the job; one that has ended is left as it is. */
  cancel(id: string, options?: CallOptions): Promise<Job>
  /** The evidence of its verdict, as the network gives it: unchecked. */
  receipts(id: string, options?: CallOptions): Promise<JobEvidence>
  /** Gets the job and its evidence, and checks them here: see `verifyReceipts`. */
  verify(id: string, options?: CallOptions & Omit<VerifyOptions, 'job'>): Promise<EvidenceReport>
  /** The bytes of an output of a result; downloaded where they did not come with it. `bad_response` where they are others. */
  read(content: ResultContent, options?: CallOptions): Promise<Uint8Array<ArrayBuffer>>
}

const PATH = '/api/v1/jobs'
const jobPage = pageSchema(jobSchema)
const executionList = pageSchema(jobExecutionSchema).partial({ nextCursor: true })

export const jobs = (context: JobsContext, blobs: Pick<Blobs, 'read'>): Jobs => {
  const { transport } = context
  const receipts: Jobs['receipts'] = (id, options = {}) =>
    transport.json({ method: 'GET', path: `${jobPath(id)}/receipts`, ...options }, jobEvidenceSchema)
  return {
    submit: (request, { idempotencyKey = newId('request'), ...options } = {}) =>
      transport.json(
        {
          method: 'POST',
          path: PATH,
          body: request,
          repeatable: true,
          idempotencyKey: () => idempotencyKey,
          ...options,
        },
        jobSchema,
      ),
    get: (id, options) => getJob(context, id, options),
    list: ({ status, label, ...options } = {}) => pagedList(transport, PATH, jobPage, { status, label }, options),
    wait: (id, options) => waitForJob(context, id, options),
    events: (id, options) => jobEvents(context, id, options),
    executions: async (id, options = {}) =>
      (await transport.json({ method: 'GET', path: `${jobPath(id)}/executions`, ...options }, executionList)).items,
    cancel: (id, options = {}) => transport.json({ method: 'DELETE', path: jobPath(id), ...options }, jobSchema),
    receipts,
    verify: async (id, { signal, requestTimeoutMs, ...options } = {}) => {
      const call = { signal, requestTimeoutMs }
      const [job, evidence] = await Promise.all([getJob(context, id, call), receipts(id, call)])
      return verifyReceipts(evidence, { ...options, job })
    },
    read: async (content, options) => {
      const bytes =
        'blob' in content ? await blobs.read(content.blob, options) : outputBytes(content.content, content.encoding)
      if (sha256Hex(bytes) !== content.sha256)
        throw new BrambleError('bad_response', { detail: `the bytes of ${content.sha256} are others` })
      return bytes
    },
  }
}
