import type { SandboxStats } from '@bramble/runtime'
import { type InstanceChange, updateInstances } from '../store/instances.ts'
import { type Context, timeText } from './context.ts'
import type { LiveInstance } from './live-instance.ts'

const MB_IN_GB = 1024
const SAMPLE_EVERY_MS = 60_000

/**
 * Charges what the instance used since the last time to its key: processor time and traffic by the kernel's account, memory
 * by its limit, for as long as it is held. What the answer holds must be written, or it is charged again after a restart.
 */
export const chargeInstance = async (context: Context, live: LiveInstance): Promise<InstanceChange> => {
  const { row, box } = live
  const stats: SandboxStats | undefined = await box?.sandbox.stats().catch(() => undefined)
  // Nothing waits from here on: two that charge the same instance do not charge the same twice.
  const nowMs = context.clock.now()
  if (row.charged_at === null) return {}
  const heldSeconds = Math.max(0, nowMs - Date.parse(row.charged_at)) / 1000
  const cpuMs = stats ? Math.max(0, stats.cpuMs - row.charged_cpu_ms) : 0
  const egressBytes = stats ? Math.max(0, stats.egressBytes - row.charged_egress_bytes) : 0
  context.charge({
    tenant: row.tenant,
    key_id: row.key_id,
    cpu_seconds: cpuMs / 1000,
    memory_gb_seconds: (live.spec.resources.memoryMb / MB_IN_GB) * heldSeconds,
    egress_bytes: egressBytes,
  })
  const change = {
    charged_at: timeText(nowMs),
    charged_cpu_ms: row.charged_cpu_ms + cpuMs,
    charged_egress_bytes: row.charged_egress_bytes + egressBytes,
  }
  Object.assign(row, change)
  return change
}

/** Charges all that hold memory, one after another, and writes it in one commit. */
export const chargeAll = async (context: Context): Promise<void> => {
  const changes = new Map<string, InstanceChange>()
  for (const live of context.byId.values()) if (live.place) changes.set(live.id, await chargeInstance(context, live))
  await updateInstances(context.db, changes)
}

/** Charges all from time to time, so that a crash forgets little. */
export const startMetering = (context: Context): { stop(): Promise<void> } => {
  let running: Promise<void> | undefined
  const timer = setInterval(() => {
    running ??= chargeAll(context)
      .catch((error: unknown) => context.log.error({ err: error }, 'the usage of instances could not be written'))
      .finally(() => {
        running = undefined
      })
  }, SAMPLE_EVERY_MS).unref()
  return {
    async stop() {
      clearInterval(timer)
      await running
    },
  }
}
