import { parseArgs } from 'node:util'
import { type ChaosSummary, runChaos } from '../test/chaos/run.ts'

/** `node scripts/chaos.ts --minutes 10 [--seed N]`: a network of real processes while things go wrong. Exits with 1 for whatever does not hold. */
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const seed = Number(values.seed)
const minutes = Number(values.minutes)

const table = (summary: ChaosSummary): string => {
  const rows: [string, string | number][] = [
    ['seed', summary.seed],
    ['minutes', minutes],
    ['jobs accepted', summary.submitted],
    ...Object.entries(summary.jobs).map(([status, count]): [string, number] => [`jobs ${status}`, count]),
    ['receipts verified', summary.receipts],
    ...Object.entries(summary.faults).map(([name, count]): [string, number] => [name, count]),
    ['writers that took over', summary.takeovers],
    ['longest time without a verdict', `${(summary.longestGapMs / 1000).toFixed(1)} s`],
    ['from the last mending to the last verdict', `${(summary.healedMs / 1000).toFixed(1)} s`],
    ['jobs a second', summary.jobsPerSecond.toFixed(1)],
    ['what clients were told meanwhile', JSON.stringify(summary.errors)],
    ['violations', summary.violations.length],
  ]
  return ['| what | |', '|---|---|', ...rows.map(([name, value]) => `| ${name} | ${value} |`)].join('\n')
}

// What was started and made is taken back at the exit.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))
console.log(`seed ${seed}, ${minutes} minutes`)
const summary = await runChaos({
  ...{ seed, forMs: minutes * 60_000, coordinators: 3, workers: 6, liars: 1, clients: 16 },
  ...{ lastsMs: [200, 12_000], pauseMs: [500, 8_000], healMs: 180_000, log: (text) => console.log(text) },
})
if ('skip' in summary) {
  console.log(`skipped: ${summary.skip}`)
} else {
  console.log(table(summary))
  for (const violation of summary.violations) console.log(`VIOLATED: ${violation}`)
  if (summary.directory !== undefined) console.log(`logs and data: ${summary.directory}`)
  process.exitCode = summary.violations.length > 0 ? 1 : 0
}
