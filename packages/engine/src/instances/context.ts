import type { AutoRuntime, ImageStore, Runtime } from '@bramble/runtime'
import type { Kysely } from 'kysely'
import type { Admission } from '../admission.ts'
import type { EngineLimits } from '../engine.ts'
import type { OutputRoom } from '../kept-output.ts'
import type { Load } from '../load.ts'
import type { Clock, EngineNotice, InstanceChangeKind, Log } from '../options.ts'
import type { InstanceTables } from '../store/instance-tables.ts'
import { type InstanceChange, updateInstance } from '../store/instances.ts'
import type { Charge } from '../usage.ts'
import type { Volumes } from '../volumes/volumes.ts'
import type { Deadlines } from './deadlines.ts'
import type { LiveInstance } from './live-instance.ts'
import type { States } from './states.ts'

export interface InstancesDeps {
  readonly db: Kysely<InstanceTables>
  readonly runtime: AutoRuntime
  readonly runtimes: readonly Runtime[]
  readonly images: ImageStore
  readonly volumes: Volumes | undefined
  readonly admission: Admission
  readonly load: Load
  readonly limits: EngineLimits
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly outputRoom: OutputRoom
  /** Makes room for a sandbox of so much memory, by giving up pooled ones. */
  readonly makeRoom: (memoryMb: number) => void
  /** An image is in use, or is not any more. */
  readonly useImage: (digest: string, by: 1 | -1) => void
  readonly charge: (used: Charge) => void
  readonly states: States
}

/** What the parts of `Instances` share. */
export interface Context extends InstancesDeps {
  readonly byId: Map<string, LiveInstance>
  /** By name, then by tenant. */
  readonly byName: Map<string, Map<string, LiveInstance>>
  readonly deadlines: Deadlines<LiveInstance>
  readonly closing: AbortController
  /** It is not there any more. */
  readonly forget: (live: LiveInstance) => void
}

export const timeText = (ms: number): string => new Date(ms).toISOString()

/** Writes a change, and then tells those who watch the instance. */
export const save = async (context: Context, live: LiveInstance, change: InstanceChange): Promise<void> => {
  await updateInstance(context.db, live.id, change)
  Object.assign(live.row, change)
  live.stream.events.emit('state')
}

/** A change that nobody waits for. */
export const inBackground = (context: Context, live: LiveInstance, work: () => Promise<unknown>): void =>
  void live.exclusive(work).catch((error: unknown) => {
    if (context.closing.signal.aborted) return
    context.log.error({ err: error, instance: live.id }, 'a change of an instance failed')
  })

export const tell = (context: Context, live: LiveInstance, change: InstanceChangeKind): void =>
  context.notice({ type: 'instance', change, runtime: live.row.runtime })
