import type { UsageRow } from '@bramble/protocol'
import type { Kysely } from 'kysely'
import type { LiveExecution } from './live.ts'
import type { Clock } from './options.ts'
import type { EngineTables, UsageHourRow } from './store/tables.ts'
import { sumUsage } from './store/usage.ts'

const HOUR_MS = 3_600_000
const MB_IN_GB = 1024

/** The hour that a moment is in, as its first instant. */
export const hourOf = (ms: number): string => new Date(Math.floor(ms / HOUR_MS) * HOUR_MS).toISOString()

/** What was used on behalf of a key. */
export type Charge = Omit<UsageHourRow, 'hour' | 'executions'>

/** Sums what executions used, by hour and key, until it is written. */
export interface UsageMeter {
  count(live: Pick<LiveExecution, 'conclusion' | 'context' | 'spec'>): void
  /** What was used beside executions, in this hour. */
  charge(used: Charge): void
  /** What was counted since the last time. */
  take(): UsageHourRow[]
  /** What `take` gave could not be written. */
  giveBack(rows: readonly UsageHourRow[]): void
}

export const createUsageMeter = (clock: Clock): UsageMeter => {
  let hours = new Map<string, UsageHourRow>()
  const add = (row: UsageHourRow): void => {
    const name = `${row.hour}\n${row.tenant}\n${row.key_id}`
    const sum = hours.get(name)
    if (!sum) {
      hours.set(name, { ...row })
      return
    }
    sum.executions += row.executions
    sum.cpu_seconds += row.cpu_seconds
    sum.memory_gb_seconds += row.memory_gb_seconds
    sum.egress_bytes += row.egress_bytes
  }
  return {
    count({ conclusion, context, spec }) {
      if (!conclusion || !('result' in conclusion)) return
      const { usage, timings } = conclusion.result
      // What runs in an instance is charged to the instance.
      const share = spec.mode === 'persistent' ? 0 : 1
      const heldSeconds = (timings.startMs + timings.execMs) / 1000
      add({
        tenant: context.tenant,
        key_id: context.keyId,
        hour: hourOf(clock.now()),
        executions: 1,
        cpu_seconds: (share * usage.cpuMs) / 1000,
        // Memory is held by its limit, whatever of it is used.
        memory_gb_seconds: share * (spec.resources.memoryMb / MB_IN_GB) * heldSeconds,
        egress_bytes: share * usage.egressBytes,
      })
    },
    charge: (used) => add({ ...used, hour: hourOf(clock.now()), executions: 0 }),
    take() {
      const rows = [...hours.values()]
      hours = new Map()
      return rows
    },
    giveBack(rows) {
      for (const row of rows) add(row)
    },
  }
}

/** Usage of whole hours: `since` is moved back to the beginning of its hour, `until` on to the end of its own. */
export const usageBetween = (
  db: Kysely<EngineTables>,
  query: { tenant?: string; since: Date; until: Date },
): Promise<UsageRow[]> =>
  sumUsage(db, {
    tenant: query.tenant,
    fromHour: hourOf(query.since.getTime()),
    toHour: hourOf(query.until.getTime() + HOUR_MS - 1),
  })

/** The same with what is stored now, whoever used anything. */
export const withStorage = (
  rows: readonly UsageRow[],
  stored: readonly Pick<UsageRow, 'tenant' | 'keyId' | 'storageBytes'>[],
): UsageRow[] => {
  const nothing = { executions: 0, cpuSeconds: 0, memoryGbSeconds: 0, egressBytes: 0 }
  const keys = new Map(rows.map((row) => [`${row.tenant}\n${row.keyId}`, row]))
  for (const { tenant, keyId, storageBytes } of stored) {
    const key = `${tenant}\n${keyId}`
    keys.set(key, { ...(keys.get(key) ?? { tenant, keyId, ...nothing }), storageBytes })
  }
  return [...keys.values()]
}
