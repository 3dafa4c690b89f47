import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'

const numbersIn = (file: string): number[] => {
  try {
    return readFileSync(file, 'utf8').trim().split(/\s+/).map(Number)
  } catch {
    return []
  }
}

/** Processors that a cgroup's quota is worth: `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1. */
const quotaOf = (directory: string): number => {
  const [quota = Number.NaN, period = Number.NaN] = numbersIn(join(directory, 'cpu.max'))
  if (quota > 0 && period > 0) return quota / period
  const [old = Number.NaN] = numbersIn(join(directory, 'cpu.cfs_quota_us'))
  const [oldPeriod = Number.NaN] = numbersIn(join(directory, 'cpu.cfs_period_us'))
  return old > 0 && oldPeriod > 0 ? old / oldPeriod : Number.POSITIVE_INFINITY
}

/** The cgroup of this process that accounts for processors, as a path of the host. */
const ownCgroup = (root: string, membership: string): string => {
  for (const line of membership.split('\n')) {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (controllers.split(',').includes('cpu')) return join(root, 'cpu', path)
  }
  return join(root, /^0::(.*)$/m.exec(membership)?.[1] ?? '')
}

/** Processors that this process may really use: those of its affinity, within the quotas of its cgroup and of all above it. */
export const grantedCpus = (
  root = '/sys/fs/cgroup',
  { membershipFile = '/proc/self/cgroup', processors = availableParallelism() } = {},
): number => {
  let granted = processors
  let membership = ''
  try {
    membership = readFileSync(membershipFile, 'utf8')
  } catch {
    return granted
  }
  for (let at = ownCgroup(root, membership); at.startsWith(root); at = dirname(at)) {
    granted = Math.min(granted, quotaOf(at))
    if (at === root) break
  }
  return Math.max(0.01, Math.round(granted * 100) / 100)
}
