import { hash } from 'node:crypto'
import { seededRandom } from '../placement/testing.ts'

/** What a node does besides its work. */
export type Temper =
  | 'honest'
  /** Its results take long, and so do its frames. */
  | 'slow'
  /** Wrong now and then, in its own way. */
  | 'liar'
  /** Wrong as all of its kind are wrong. */
  | 'colluder'
  /** Right until it is established, then as a colluder; comes back under another name when it is found out. */
  | 'patient'
  /** Repeats old frames, speaks of what is another's, signs badly. */
  | 'forger'
  /** Often cannot run what it is given. */
  | 'broken'

export interface Faults {
  readonly nodeCrashes: number
  readonly partitions: number
  readonly coordinatorCrashes: number
  /** The coordinator stands still until another has its place, and goes on then. */
  readonly coordinatorPauses: number
  readonly clockJumps: number
  readonly drains: number
  readonly suspensions: number
}

/** All that a seed says; a smaller one of the same seed has the same nodes, jobs and faults, but the last ones. */
export interface Scenario {
  readonly seed: number
  readonly tempers: readonly Temper[]
  readonly owners: number
  readonly tenants: number
  readonly jobs: number
  /** Faults begin and jobs are submitted within it; then everything heals. */
  readonly stormMs: number
  readonly faults: Faults
}

export type Limits = { readonly [K in 'nodes' | 'jobs']?: number } & { readonly faults?: Partial<Faults> }

/** A stream of random numbers of its own for each purpose, so that less of one thing changes nothing of another. */
export const streamOf = (seed: number, purpose: string): (() => number) =>
  seededRandom(Number.parseInt(hash('sha1', `${seed} ${purpose}`).slice(0, 8), 16))

export const between = (random: () => number, least: number, most: number): number =>
  least + Math.floor(random() * (most - least + 1))

export const pick = <T>(random: () => number, values: readonly T[]): T => {
  const value = values[Math.floor(random() * values.length)]
  if (value === undefined) throw new RangeError('nothing to pick from')
  return value
}

const BAD: readonly Temper[] = ['slow', 'liar', 'colluder', 'patient', 'forger', 'broken']

export const scenarioOf = (seed: number, limits: Limits = {}): Scenario => {
  const random = streamOf(seed, 'scenario')
  const nodes = between(random, 4, 9)
  const badShare = random() * 0.5
  // Three honest owners are always there, so that a quorum of them can be found in the end.
  const tempers = Array.from(
    { length: nodes },
    (_, index): Temper => (random() < badShare && index > 2 ? pick(random, BAD) : 'honest'),
  )
  const few = (most: number): number => (random() < 0.5 ? 0 : between(random, 1, most))
  const faults: Faults = {
    nodeCrashes: few(4),
    partitions: few(4),
    coordinatorCrashes: few(3),
    coordinatorPauses: few(2),
    clockJumps: few(2),
    drains: few(2),
    suspensions: few(1),
  }
  const owners = between(random, Math.max(3, nodes - 3), nodes)
  const tenants = between(random, 1, 3)
  const jobs = between(random, 6, 16)
  const atMost = (name: keyof Faults): number =>
    Math.min(faults[name], limits.faults?.[name] ?? Number.POSITIVE_INFINITY)
  return {
    seed,
    tempers: tempers.slice(0, limits.nodes ?? nodes),
    owners,
    tenants,
    jobs: Math.min(jobs, limits.jobs ?? jobs),
    stormMs: between(random, 10_000, 25_000),
    faults: {
      nodeCrashes: atMost('nodeCrashes'),
      partitions: atMost('partitions'),
      coordinatorCrashes: atMost('coordinatorCrashes'),
      coordinatorPauses: atMost('coordinatorPauses'),
      clockJumps: atMost('clockJumps'),
      drains: atMost('drains'),
      suspensions: atMost('suspensions'),
    },
  }
}
