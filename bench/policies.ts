/**
 * What each policy of verification costs and lets through, against nodes that lie together, rarely, or under new names: a
 * Monte Carlo simulation of the coordinator's own verdict code. `node bench/policies.ts [jobs] [--record]`; `--record` writes
 * `bench/recorded/policies.json`, of which `npm run docs:verification` makes the table in `docs/verification.md`.
 */
import { writeFileSync } from 'node:fs'
import { ATTACKS, type Measured, measurePolicy, POLICIES } from '@bramble/coordinator/measure'

const JOBS = Number(process.argv.slice(2).find((argument) => /^\d+$/.test(argument)) ?? 50_000)
const options = { nodes: 400, anchors: 8, jobs: JOBS, seed: 1 }

const COUNTS = [
  ...(['executions', 'wrongAtFirst', 'wrongAtLast', 'noConsensus', 'reopened'] as const),
  ...(['liarsConvicted', 'honestConvicted'] as const),
]
const rows: Measured[] = []
for (const attack of ATTACKS) {
  for (const policy of POLICIES) {
    const startedAt = performance.now()
    const measured = measurePolicy(policy, attack, options)
    rows.push(measured)
    const { executions, wrongAtFirst, wrongAtLast, noConsensus, reopened, liarsConvicted, honestConvicted } = measured
    console.log(
      `${attack.name} | ${policy.name}: ${(executions / JOBS).toFixed(3)} copies, wrong ${wrongAtFirst} then ${wrongAtLast}, ` +
        `no consensus ${noConsensus}, again ${reopened}, convicted ${liarsConvicted} liars ${honestConvicted} honest ` +
        `(${((performance.now() - startedAt) / 1000).toFixed(1)} s)`,
    )
  }
}
if (process.argv.includes('--record')) {
  const columns = COUNTS.map(String)
  const byAttack: Record<string, Record<string, number[]>> = {}
  for (const row of rows) {
    byAttack[row.attack] ??= {}
    Object.assign(byAttack[row.attack] ?? {}, { [row.policy]: COUNTS.map((name) => row[name]) })
  }
  const recorded = { bench: 'policies', options, node: process.version, columns, attacks: byAttack }
  // One line for each policy, as the formatter has it.
  const text = JSON.stringify(recorded, null, 2).replaceAll(/\[\s+([\d,\s]+?)\s+\]/g, (_, inner: string) => {
    const items = inner.split(/,\s+/)
    return `[${items.join(', ')}]`
  })
  writeFileSync(new URL('./recorded/policies.json', import.meta.url), `${text}\n`)
}
