import { parseArgs } from 'node:util'
import { loadMutated } from './mutate.ts'
import { MUTATIONS } from './mutations.ts'
import type { Faults, Limits } from './scenario.ts'
import { shrink } from './shrink.ts'
import { type Outcome, simulate } from './simulate.ts'

const USAGE = `Runs networks of simulated nodes around the real coordinator, and checks after every step what must always hold.

  --from N --count N     that many seeds (default 1, 200)
  --seed N               one seed, with what happened line by line
      --nodes N --jobs N --faults kind=N,…   less of it, as a shrunk seed says
  --shrink               says what a failing seed fails without
  --mutation NAME        with that bug put in; \`all\` for each in turn. Fails unless it is found
  --part I/N             every N-th of the mutations, from the I-th
  --list                 the mutations`

/** A mutation that so many seeds do not find is not found. */
const MUTATION_SEEDS = 1500

const limitsOf = (values: { nodes?: string; jobs?: string; faults?: string }): Limits => {
  const faults = Object.fromEntries(
    (values.faults ?? '')
      .split(',')
      .filter((each) => each.includes('='))
      .map((each) => [each.split('=')[0] as keyof Faults, Number(each.split('=')[1])]),
  )
  return {
    ...(values.nodes !== undefined && { nodes: Number(values.nodes) }),
    ...(values.jobs !== undefined && { jobs: Number(values.jobs) }),
    faults,
  }
}

const flagsOf = ({ nodes, jobs, faults = {} }: Limits): string =>
  `--nodes ${nodes} --jobs ${jobs} --faults ${Object.entries(faults)
    .map(([kind, number]) => `${kind}=${number}`)
    .join(',')}`

export interface Output {
  out(line: string): void
}

/** The command line of the simulation. Resolves with the exit code. */
export const runSimulation = async (argv: readonly string[], { out }: Output): Promise<number> => {
  const text = { type: 'string' } as const
  const flag = { type: 'boolean' } as const
  const { values } = parseArgs({
    args: [...argv],
    options: {
      ...{ from: text, count: text, seed: text, nodes: text, jobs: text, faults: text, mutation: text, part: text },
      ...{ shrink: flag, list: flag, help: flag },
    },
  })
  if (values.help) {
    out(USAGE)
    return 0
  }
  if (values.list) {
    for (const name of Object.keys(MUTATIONS)) out(name)
    return 0
  }
  if (values.mutation === 'all') return tryMutations(values.part, out)
  const run = values.mutation === undefined ? simulate : (await loadMutated(values.mutation)).simulate
  if (values.seed === undefined)
    return values.mutation === undefined
      ? runSeeds(Number(values.from ?? 1), Number(values.count ?? 200), out)
      : (await tryMutation(values.mutation, out))
        ? 0
        : 1
  const seed = Number(values.seed)
  let limits = limitsOf(values)
  if (values.shrink) {
    limits = await shrink(seed, (smaller) => run(seed, smaller))
    out(`it still fails with ${flagsOf(limits)}`)
  }
  const outcome = await run(seed, { ...limits, trace: true })
  for (const line of outcome.trace) out(line)
  report(outcome, out)
  return outcome.violations.length > 0 ? 1 : 0
}

const report = ({ seed, violations, jobs, executions, steps, statuses }: Outcome, out: Output['out']): void => {
  out(`seed ${seed}: ${jobs} jobs (${JSON.stringify(statuses)}), ${executions} executions, ${steps} steps`)
  for (const violation of violations) out(`  ${violation}`)
}

const runSeeds = async (from: number, count: number, out: Output['out']): Promise<number> => {
  let failed = 0
  let steps = 0
  let jobs = 0
  const began = performance.now()
  for (let seed = from; seed < from + count; seed++) {
    const outcome = await simulate(seed)
    steps += outcome.steps
    jobs += outcome.jobs
    if (outcome.violations.length === 0) continue
    failed++
    report(outcome, out)
    out(`  node scripts/simulate.ts --seed ${seed} --shrink`)
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  out(`${count} seeds from ${from}: ${jobs} jobs, ${steps} steps, ${failed} failed, ${seconds} s`)
  return failed > 0 || jobs < count ? 1 : 0
}

/** Whether it is found, and for what it is. */
const tryMutation = async (name: string, out: Output['out']): Promise<boolean> => {
  const mutated = await loadMutated(name)
  const first = MUTATIONS[name]?.seed
  const seeds = Array.from({ length: MUTATION_SEEDS }, (_, index) => index + 1)
  for (const seed of first === undefined ? seeds : [first, ...seeds]) {
    const { violations } = await mutated.simulate(seed)
    if (violations.length === 0) continue
    const isIt = violations.some((violation) => MUTATIONS[name]?.caughtBy.test(violation))
    out(`${isIt ? 'found' : 'found for something else'} by seed ${seed}: ${name}: ${violations[0]}`)
    return isIt
  }
  out(`not found by ${MUTATION_SEEDS} seeds: ${name}`)
  return false
}

const tryMutations = async (part: string | undefined, out: Output['out']): Promise<number> => {
  const [index = 0, parts = 1] = part?.split('/').map(Number) ?? []
  let missed = 0
  for (const [number, name] of Object.keys(MUTATIONS).entries())
    if (number % parts === index && !(await tryMutation(name, out))) missed++
  return missed > 0 ? 1 : 0
}
