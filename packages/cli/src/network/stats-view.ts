import type { NetworkStats } from '@bramble/sdk'
import { formatMs } from '../format.ts'
import { paint } from '../terminal.ts'
import { pairLines, type ViewOptions } from './job-view.ts'

const countsText = (counts: Readonly<Record<string, number>>): string => {
  const there = Object.entries(counts).filter(([, count]) => count > 0)
  return there.map(([name, count]) => `${count} ${name}`).join(', ') || 'none'
}

/** The network as a whole, for a person. */
export const statsLines = (stats: NetworkStats, options: ViewOptions): string[] => [
  paint('bold', stats.network, options.color),
  ...pairLines(
    [
      ['jobs', countsText(stats.jobs)],
      ['nodes', countsText(stats.nodes)],
      ['executions', `${stats.executions.running} running, ${stats.executions.waiting} waiting`],
      ['verified', `${stats.verifiedPerSecond.toFixed(1)} a second, ${stats.copiesPerJob.toFixed(2)} copies a job`],
      ['credits', `${stats.credits.issued} issued, ${stats.credits.held} held, ${stats.credits.earned} earned`],
      ['key', stats.publicKey],
      ['version', stats.version],
      ['up', formatMs(stats.uptimeMs)],
    ],
    options,
  ),
]
