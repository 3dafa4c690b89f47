import {
  BrambleError,
  type ExecutionId,
  type ExecutionResult,
  type ExecutionSpec,
  type NetworkPolicy,
  newId,
  type Resources,
  type SandboxId,
  toBrambleError,
} from '@bramble/protocol'
import type { AutoRuntime, ImageStore, LocalImage, Sandbox, SandboxResources, Wanted } from '@bramble/runtime'
import { type Admission, isWaiting, type Place, type Waiting } from './admission.ts'
import type { TenantBlobs } from './blobs/tenant-blobs.ts'
import { createCachedMode } from './cache/cached-mode.ts'
import type { ResultCache } from './cache/result-cache.ts'
import { placeOf } from './command.ts'
import type { Endings } from './endings.ts'
import type { Engine, EngineLimits, ExecuteContext, Execution } from './engine.ts'
import type { History } from './history.ts'
import type { OpenInstances } from './instances/open-instances.ts'
import type { OutputRoom } from './kept-output.ts'
import { LiveExecution } from './live.ts'
import { mountsFor } from './mounts.ts'
import type { Clock, EngineNotice, Log } from './options.ts'
import { inputHashOf } from './outcome.ts'
import { instanceSpecOf, runPersistent } from './persistent.ts'
import type { Kind } from './pool.ts'
import type { Pools } from './pools.ts'
import { replay } from './replay.ts'
import { run } from './run.ts'
import { type ExecutionStart, type ExecutionStates, leavesSnapshot } from './snapshots/execution-states.ts'
import { assertSupported } from './support.ts'
import { blobsOfFiles } from './transfer.ts'
import type { Volumes } from './volumes/volumes.ts'

export interface ExecutionsDeps {
  readonly runtime: AutoRuntime
  readonly images: ImageStore
  readonly volumes: Volumes | undefined
  readonly instances: OpenInstances
  readonly admission: Admission
  readonly pools: Pools
  readonly endings: Endings
  readonly history: History
  readonly cache: ResultCache
  readonly blobs: TenantBlobs
  readonly limits: EngineLimits
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly outputRoom: OutputRoom
  readonly states: ExecutionStates
  /** An image is in use, or is not any more. */
  readonly useImage: (digest: string, by: 1 | -1) => void
}

/** Everything that `Engine` says of executions, and what closing it needs. */
export interface Executions extends Pick<Engine, 'execute' | 'executions'> {
  kindOf(image: LocalImage, wanted: Wanted & { network?: NetworkPolicy }, resources: Resources): Kind
  /** Nothing more is admitted; waits up to `graceMs` for what runs, then cancels the rest. */
  close(graceMs: number): Promise<void>
  readonly closing: boolean
}

interface Admitted {
  readonly kind: Kind
  readonly inputHash: string
  /** Undefined where an instance of its own holds the place. */
  readonly entered: Place | Waiting | undefined
}

const sandboxResources = ({ cpus, memoryMb, diskMb, pids }: Resources): SandboxResources => ({
  cpus,
  memoryMb,
  diskMb,
  pids,
})

/** Leaves the place that an execution does not need after all. */
const giveBack = (entered: Place | Waiting): void => {
  if (!isWaiting(entered)) {
    entered.release()
    return
  }
  entered.leave()
  entered.granted.then(
    (place) => place?.release(),
    () => {},
  )
}

const continuing = (kind: Kind, { image, runtime, from, defaults }: ExecutionStart): Kind => ({
  ...kind,
  image,
  runtime,
  from,
  defaults,
})

export const createExecutions = (deps: ExecutionsDeps): Executions => {
  const { runtime, images, volumes, instances, admission, pools, endings, history, cache, blobs } = deps
  const { limits, clock, log, notice, states } = deps
  const lives = new Map<ExecutionId, LiveExecution>()
  let closing = false

  const kindOf: Executions['kindOf'] = (image, wanted, resources) => ({
    image,
    runtime: runtime.select(wanted),
    resources: sandboxResources(resources),
    ...(wanted.network !== undefined && { network: wanted.network }),
  })

  const check = (spec: ExecutionSpec): { kind: Kind; inputHash: string } => {
    if (closing) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
    const kind = kindOf(images.resolve(spec.image), spec, spec.resources)
    assertSupported(spec, { capabilities: kind.runtime.capabilities, volumes: volumes !== undefined })
    return { kind, inputHash: inputHashOf(spec, kind.image.digest) }
  }

  const placeFor = ({ resources: { cpus, memoryMb } }: ExecutionSpec, context: ExecuteContext): Place | Waiting => {
    if (closing) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
    const { tenant, keyId, quota } = context
    return admission.enter({ tenant, keyId, cpus, memoryMb, quota })
  }

  const admit = (spec: ExecutionSpec, context: ExecuteContext): Admitted => {
    const { kind, inputHash } = check(spec)
    if (spec.mode === 'persistent') {
      instanceSpecOf(spec)
      return { kind, inputHash, entered: undefined }
    }
    return { kind, inputHash, entered: placeFor(spec, context) }
  }

  const promoteCaches = (tenant: string, owner: string): void =>
    void volumes?.promote(tenant, owner).catch((error: unknown) => {
      log.warn({ err: error, owner }, 'what a sandbox added to its caches could not be kept')
    })

  const withMounts = async (kind: Kind, { spec, context }: LiveExecution): Promise<Kind> => {
    const { volumes: wanted = [], caches = [], env } = spec
    if (wanted.length + caches.length === 0) return kind
    const { user } = placeOf(spec, kind.image)
    const { tenant } = context
    const mounts = await mountsFor(volumes, { tenant, volumes: wanted, caches, user, env, image: kind.image })
    // What its caches were given becomes the tenant's once it is gone.
    const onGone = caches.length > 0 ? (id: SandboxId) => promoteCaches(tenant, id) : undefined
    return { ...kind, mounts, ...(onGone && { onGone }) }
  }

  const holdBlobs = async ({ spec, context }: LiveExecution): Promise<AsyncDisposable | undefined> => {
    const hashes = blobsOfFiles(spec.files)
    return hashes.length > 0 ? await blobs.hold(context.tenant, hashes) : undefined
  }

  const runOne = async (
    live: LiveExecution,
    kind: Kind,
    entered: Admitted['entered'],
    changed: (live: LiveExecution) => void = history.changed,
  ): Promise<ExecutionResult> => {
    const deps = { blobs, limits, clock, notice, changed }
    const orGiveBack = (error: unknown): never => {
      if (entered) giveBack(entered)
      throw error
    }
    await using _held = await holdBlobs(live).catch(orGiveBack)
    if (!entered) return await runPersistent({ ...deps, instances, log }, live, kind)
    // One that is stopped meanwhile has a result that says so.
    using start = await beginningOf(live).catch((error) => (live.stopReason ? undefined : orGiveBack(error)))
    const begun = start ? continuing(kind, start) : kind
    const mounted = await withMounts(begun, live).catch(orGiveBack)
    const { id, spec, context: owner } = live
    const keep = leavesSnapshot(spec)
      ? (sandbox: Sandbox) => {
          const { image, runtime } = mounted
          return states.keep({ id, spec, owner, sandbox, image, runtime, start })
        }
      : undefined
    return await run({ ...deps, pools, endings, ...(keep && { keep }) }, live, mounted, entered)
  }

  /** The state that it begins as, as soon as that is there; what stops the execution stops this. */
  const beginningOf = async (live: LiveExecution): Promise<ExecutionStart | undefined> => {
    const { spec } = live
    if (spec.checkpoint === undefined && !leavesSnapshot(spec)) return undefined
    const controller = new AbortController()
    live.onStop = () => controller.abort(new BrambleError('cancelled', { detail: 'the execution was cancelled' }))
    if (live.stopReason) controller.abort()
    try {
      return await states.begin(spec, live.context, controller.signal)
    } finally {
      live.onStop = undefined
    }
  }

  const carry = async (live: LiveExecution, kind: Kind, entered: Admitted['entered']): Promise<ExecutionResult> => {
    const { signal } = live.context
    const onAbort = (): void => live.stop('cancelled')
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    const finishedAt = (): string => new Date(clock.now()).toISOString()
    try {
      const result = await runOne(live, kind, entered)
      live.conclude({ result }, result.finishedAt)
      const { status, runtime, timings, usage } = result
      notice({ type: 'finished', status, runtime, timings, cpuMs: usage.cpuMs })
      return result
    } catch (thrown) {
      const error = toBrambleError(thrown)
      if (error.code === 'internal') log.error({ err: thrown, execution: live.id }, 'an execution broke')
      live.conclude({ error: error.toProblem() }, finishedAt())
      notice({ type: 'lost', code: error.code })
      throw error
    } finally {
      signal?.removeEventListener('abort', onAbort)
      leave(live, kind)
    }
  }

  const orRefuse = <T>(work: () => T): T => {
    try {
      return work()
    } catch (error) {
      notice({ type: 'refused', code: toBrambleError(error).code })
      throw error
    }
  }

  const leave = (live: LiveExecution, kind: Kind): void => {
    deps.useImage(kind.image.digest, -1)
    lives.delete(live.id)
    live.stdout.release()
    live.stderr.release()
    history.changed(live)
    live.recorded()
  }
  const enter = (live: LiveExecution, kind: Kind): void => {
    lives.set(live.id, live)
    deps.useImage(kind.image.digest, 1)
    history.changed(live)
  }

  const cachedMode = createCachedMode({
    ...{ cache, history, clock, log, notice, outputRoom: deps.outputRoom, check, enter, leave },
    run: async (live, kind, changed) => {
      const entered = orRefuse(() => placeFor(live.spec, live.context))
      if (isWaiting(entered)) notice({ type: 'queued' })
      return await runOne(live, kind, entered, changed)
    },
  })

  const execute = (spec: ExecutionSpec, context: ExecuteContext): Execution => {
    if (spec.mode === 'cached') return orRefuse(() => cachedMode.execute(spec, context))
    const admitted = orRefuse(() => admit(spec, context))
    const { kind, inputHash, entered } = admitted
    const now = clock.now()
    const live = new LiveExecution(
      newId('execution', { now: () => now }),
      spec,
      context,
      inputHash,
      new Date(now).toISOString(),
      deps.outputRoom,
    )
    enter(live, kind)
    if (entered && isWaiting(entered)) notice({ type: 'queued' })
    const result = carry(live, kind, entered)
    // Who streams may never look at the promise; the stream's last event says the same.
    result.catch(() => {})
    return {
      id: live.id,
      result,
      cancel: () => live.stop('cancelled'),
      [Symbol.asyncIterator]: () => (live.channel ?? live.watch())[Symbol.asyncIterator](),
    }
  }

  const ofTenant = (id: ExecutionId, tenant: string): LiveExecution | undefined => {
    const live = lives.get(id)
    return live?.context.tenant === tenant ? live : undefined
  }

  return {
    kindOf,
    execute,
    executions: {
      get: (id, tenant) => history.find(id, tenant),
      list: (query) => history.list(query),
      async cancel(id, tenant) {
        const live = ofTenant(id, tenant)
        live?.stop('cancelled')
        await live?.done
        return history.find(id, tenant)
      },
      async *logs(id, tenant, options) {
        const live = ofTenant(id, tenant)
        if (live) yield* live.watch(options)
        else yield* replay(await history.find(id, tenant))
      },
    },
    get closing() {
      return closing
    },
    async close(graceMs) {
      closing = true
      const ends = Promise.all([...lives.values()].map((live) => live.done))
      const late = Promise.withResolvers<void>()
      const timer = setTimeout(late.resolve, graceMs)
      await Promise.race([ends, late.promise])
      clearTimeout(timer)
      for (const live of lives.values()) live.stop('cancelled')
      await ends
      await cachedMode.settled()
    },
  }
}
