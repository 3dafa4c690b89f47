import {
  instanceSchema,
  pageSchema,
  type RestoreRequestInput,
  type Snapshot,
  type SnapshotChange,
  type SnapshotDiff,
  snapshotDiffSchema,
  snapshotSchema,
} from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import { escapeText } from '../escape.ts'
import { contentOf, type FileSource } from '../instances/content.ts'
import { INSTANCES_PATH, type Instance } from '../instances/instance.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import type { Transport } from '../transport.ts'
import type { ToInstance } from './branches.ts'
import { counted } from './counted.ts'
import { refOf, type StateRef } from './state-ref.ts'
import { given, making, type SnapshotOptions, takeSnapshot } from './take.ts'

export interface SnapshotsQuery extends ListQuery {
  readonly name?: string | undefined
  /** Taken of this instance or execution. */
  readonly source?: StateRef | undefined
  /** `name=value`, or `name` for any value. */
  readonly label?: string | undefined
}

export type RestoreOptions = RestoreRequestInput & CallOptions

export interface ExportOptions extends CallOptions {
  /** False: the files alone. */
  readonly memory?: boolean | undefined
  /** Told of each piece as it goes by. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

export interface ImportOptions extends CallOptions {
  readonly name?: string | undefined
  /** Its processes may be run; for keys with the scope `admin`, and files of whom one trusts with the node. */
  readonly trustMemory?: boolean | undefined
  /** Told of each piece as it goes by; of a source that is sent as a whole, once at the end. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

/**
 * States that were kept: files, and processes with their memory. A snapshot is meant by its id, by the first 8 or more
 * characters of it, or by its name (the newest that has it).
 */
export interface Snapshots {
  /** Of an instance, which goes on after a moment. */
  create(instance: string | Pick<Instance, 'id'>, options?: SnapshotOptions): Promise<Snapshot>
  get(snapshot: StateRef, options?: CallOptions): Promise<Snapshot>
  /** Newest first. */
  list(query?: SnapshotsQuery): PagedList<Snapshot>
  /** `null` takes the name, or the time to live, away. */
  change(snapshot: StateRef, change: SnapshotChange, options?: CallOptions): Promise<Snapshot>
  /** What was made from it lives on. */
  remove(snapshot: StateRef, options?: CallOptions): Promise<void>
  /** An instance that continues from it; `await using` deletes that, unless it is kept. */
  restore(snapshot: StateRef, options?: RestoreOptions): Promise<Instance>
  /** What is other in the files of `to` than in those of `from`. */
  diff(from: StateRef, to: StateRef, options?: CallOptions): Promise<SnapshotDiff>
  /** One file, at the reader's pace; read it to its end, or cancel it. */
  export(snapshot: StateRef, options?: ExportOptions): Promise<ReadableStream<Uint8Array>>
  /** What `export` gave. Browsers send a `Blob`; they send no streams over HTTP/1.1. */
  import(source: FileSource, options?: ImportOptions): Promise<Snapshot>
}

const PATH = '/api/v1/snapshots'
const snapshotPage = pageSchema(snapshotSchema)
const pathOf = (snapshot: StateRef): string => `${PATH}/${escapeText(refOf(snapshot))}`

export const snapshots = (transport: Transport, toInstance: ToInstance): Snapshots => ({
  create: (instance, options) => takeSnapshot(transport, `${INSTANCES_PATH}/${escapeText(refOf(instance))}`, options),
  get: (snapshot, options = {}) =>
    transport.json({ method: 'GET', path: pathOf(snapshot), ...options }, snapshotSchema),
  list: (query = {}) => {
    const { name, source, label, ...options } = query
    const of = source === undefined ? undefined : sourceOf(source)
    return pagedList(transport, PATH, snapshotPage, { name, source: of, label }, options)
  },
  change: (snapshot, change, options = {}) =>
    transport.json({ method: 'PATCH', path: pathOf(snapshot), body: change, ...options }, snapshotSchema),
  remove: (snapshot, options = {}) => transport.none({ method: 'DELETE', path: pathOf(snapshot), ...options }),
  restore: async (snapshot, { signal, requestTimeoutMs, ...body } = {}) => {
    const request = making(`${pathOf(snapshot)}/restore`, body, given({ signal, requestTimeoutMs }))
    return toInstance(await transport.json(request, instanceSchema))
  },
  diff: (from, to, options = {}) =>
    transport.json(
      { method: 'GET', path: `${pathOf(from)}/diff/${escapeText(refOf(to))}`, ...options },
      snapshotDiffSchema,
    ),
  export: async (snapshot, { memory, onBytes, ...options } = {}) => {
    const { body } = await transport.open({
      method: 'GET',
      path: `${pathOf(snapshot)}/export`,
      query: { memory },
      ...options,
    })
    return counted(body, onBytes)
  },
  import: async (source, { name, trustMemory, onBytes, ...options } = {}) => {
    const content = contentOf(source)
    const isStream = content instanceof ReadableStream
    const snapshot = await transport.json(
      {
        method: 'POST',
        path: `${PATH}/import`,
        query: { name, trustMemory },
        content: isStream ? counted(content, onBytes) : content,
        contentType: 'application/octet-stream',
        // The same bytes are the same snapshot.
        repeatable: true,
        requestTimeoutMs: 0,
        ...options,
      },
      snapshotSchema,
    )
    if (!isStream) onBytes?.(content instanceof Blob ? content.size : content.length)
    return snapshot
  },
})

/** Of an execution's result its own id, not that of what it left. */
const sourceOf = (source: StateRef): string =>
  typeof source === 'object' && 'id' in source ? source.id : refOf(source)
