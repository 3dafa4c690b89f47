import type { NetworkStats } from '@bramble/protocol'
import type { WriterContext } from './writer-context.ts'

export const statsOf = async (w: WriterContext, publicKey: string): Promise<NetworkStats> => {
  const nodes: Record<string, number> = {}
  for (const { status } of w.nodes.values()) nodes[status] = (nodes[status] ?? 0) + 1
  const jobs: Record<string, number> = {}
  const stored = await w.store.countJobs()
  for (const [status, count] of Object.entries(stored))
    if (status === 'completed' || status === 'failed' || status === 'cancelled' || status === 'no_consensus')
      jobs[status] = count ?? 0
  let waiting = 0
  for (const { state } of w.jobs.values()) {
    jobs[state.status] = (jobs[state.status] ?? 0) + 1
    waiting += state.wanted.length
  }
  const { endedJobs, placedExecutions, verified, startedAt } = w.counts
  const uptimeMs = w.now() - startedAt
  return {
    network: w.config.network,
    version: w.config.version,
    publicKey,
    jobs,
    nodes,
    executions: { running: w.leases.size, waiting },
    copiesPerJob: endedJobs === 0 ? 0 : placedExecutions / endedJobs,
    verifiedPerSecond: uptimeMs <= 0 ? 0 : (verified * 1000) / uptimeMs,
    credits: w.accounts.totals(),
    uptimeMs,
  }
}
