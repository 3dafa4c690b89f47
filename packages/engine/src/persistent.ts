import {
  type ExecutionResult,
  type ExecutionSpec,
  type InstanceSpec,
  instanceSpecSchema,
  parse,
} from '@bramble/protocol'
import { execRequestOf, placeOf } from './command.ts'
import type { OpenInstances } from './instances/open-instances.ts'
import type { LiveExecution } from './live.ts'
import type { Log } from './options.ts'
import { usageOf } from './outcome.ts'
import type { Kind } from './pool.ts'
import { resultOf, type Times } from './result.ts'
import { judge, type RunDeps, readOutputs, stopped, writeFiles } from './run.ts'
import { runCommand } from './run-command.ts'

export interface PersistentDeps extends Omit<RunDeps, 'pools' | 'endings'> {
  readonly instances: OpenInstances
  readonly log: Log
}

/** The instance that stays after the execution: what the spec says of the sandbox. Throws `invalid_request`. */
export const instanceSpecOf = (spec: ExecutionSpec): InstanceSpec =>
  parse(instanceSpecSchema, {
    image: spec.image,
    runtime: spec.runtime,
    isolation: spec.isolation,
    env: spec.env,
    workdir: spec.workdir,
    user: spec.user,
    resources: spec.resources,
    network: spec.network,
    volumes: spec.volumes,
    caches: spec.caches,
    ttlMs: spec.ttlMs,
    idleTtlMs: spec.idleTtlMs,
    labels: spec.labels,
    snapshot: spec.checkpoint,
  })

/**
 * Carries an execution of mode `persistent`: makes an instance, runs the command in it, and leaves it. One that is cancelled,
 * or has no result, leaves none.
 */
export const runPersistent = async (
  deps: PersistentDeps,
  live: LiveExecution,
  kind: Kind,
): Promise<ExecutionResult> => {
  const { clock, instances } = deps
  const { tenant, keyId, quota } = live.context
  const enteredMs = clock.monotonicMs()
  const startedAt = clock.now()
  const times: Times = { enteredMs, admittedMs: enteredMs, execMs: undefined, endedMs: undefined, startedAt }
  const controller = new AbortController()
  live.onStop = () => controller.abort()
  if (live.stopReason) controller.abort()
  try {
    const owner = { tenant, keyId, ...(quota && { quota }), signal: controller.signal }
    const { id } = await instances.create(instanceSpecOf(live.spec), owner)
    live.onStop = undefined
    let stays = false
    try {
      const result = await runIn(deps, live, kind, times, id)
      stays = live.stopReason !== 'cancelled'
      return result
    } finally {
      if (!stays)
        await instances.remove(id, tenant).catch((error: unknown) => {
          deps.log.error({ err: error, instance: id }, 'the instance of an execution without a result was left')
        })
    }
  } catch (error) {
    if (!live.stopReason) throw error
    return resultOf(live, kind, clock, times, { ending: stopped(live) })
  } finally {
    live.onStop = undefined
  }
}

type Id = Parameters<OpenInstances['sandboxOf']>[0]

const runIn = async (
  deps: PersistentDeps,
  live: LiveExecution,
  kind: Kind,
  times: Times,
  instanceId: Id,
): Promise<ExecutionResult> => {
  const { clock, instances, limits, notice } = deps
  const { tenant } = live.context
  const { files } = live.spec
  using lease = await instances.use(instanceId, tenant)
  const { agent } = lease
  const sandbox = instances.sandboxOf(instanceId)
  const where = placeOf(live.spec, kind.image)
  const baseline = await sandbox?.stats()
  if (files && !live.stopReason) await writeFiles(deps, live, agent, where)
  if (live.stopReason || !sandbox || !baseline)
    return resultOf(live, kind, clock, times, { ending: stopped(live), instanceId })

  times.execMs = clock.monotonicMs()
  live.started(sandbox.runtime)
  deps.changed(live)
  notice({ type: 'started', runtime: sandbox.runtime, queuedMs: 0, startMs: times.execMs - times.admittedMs })
  const request = execRequestOf(live.spec, kind.image, where)
  const destroy = (): void => void instances.stop(instanceId, tenant).catch(() => {})
  const end = await runCommand(live, agent, { request, killGraceMs: limits.killGraceMs, destroy })
  times.endedMs = clock.monotonicMs()

  const stats = await sandbox.stats().catch(() => undefined)
  const ending = await judge(live, { sandbox, baseline }, end, stats)
  live.exited(ending.exitCode, ending.signal)
  const read = await readOutputs(deps, live, agent, where)
  const usage = stats && usageOf(stats, baseline)
  return resultOf(live, kind, clock, times, { ending, ...(usage && { usage }), outputs: read, instanceId })
}
