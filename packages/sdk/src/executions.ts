import { type ExecutionPhase, type ExecutionRecord, executionRecordSchema, pageSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { eventOf, type StreamEvent } from './execution-stream.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import type { Transport } from './transport.ts'

export interface ExecutionsQuery extends ListQuery {
  readonly status?: ExecutionPhase | undefined
  /** `name=value`, or `name` for any value. */
  readonly label?: string | undefined
}

export interface LogsOptions extends CallOptions {
  readonly follow?: boolean | undefined
}

/** The history of executions: what ran, what runs, what it said. */
export interface Executions {
  get(id: string, options?: CallOptions): Promise<ExecutionRecord>
  /** Newest first. */
  list(query?: ExecutionsQuery): PagedList<ExecutionRecord>
  /** Cancels what still runs, and resolves with its record once it has ended; one that has ended is left as it is. */
  cancel(id: string, options?: CallOptions): Promise<ExecutionRecord>
  /** What is kept of its events, then what comes, until the end. `follow: false`: what is kept by now, then no more. */
  logs(id: string, options?: LogsOptions): AsyncIterable<StreamEvent>
}

const PATH = '/api/v1/executions'
const recordPage = pageSchema(executionRecordSchema)

export const executions = (transport: Transport): Executions => ({
  get: (id, options = {}) =>
    transport.json({ method: 'GET', path: `${PATH}/${encodeURIComponent(id)}`, ...options }, executionRecordSchema),
  list: (query = {}) => {
    const { status, label, ...options } = query
    return pagedList(transport, PATH, recordPage, { status, label }, options)
  },
  cancel: (id, options = {}) =>
    transport.json({ method: 'DELETE', path: `${PATH}/${encodeURIComponent(id)}`, ...options }, executionRecordSchema),
  logs: async function* (id, options = {}) {
    const { follow, ...call } = options
    const path = `${PATH}/${encodeURIComponent(id)}/logs`
    const batches = transport.stream({
      method: 'GET',
      path,
      ...(follow === false && { query: { follow: 'false' } }),
      ...call,
    })
    for await (const messages of batches) {
      for (const message of messages) {
        const event = eventOf(message)
        if (event === undefined) continue
        yield event
        if (event.type === 'result') return
      }
    }
  },
})
