import { until } from '../leftovers.ts'
import { check, type Findings } from './check.ts'
import { openLoad } from './load.ts'
import { type FaultName, plague } from './nemesis.ts'
import { type ChaosNetworkOptions, openChaosNetwork } from './network.ts'
import { seeded } from './random.ts'

export interface ChaosOptions extends Omit<ChaosNetworkOptions, 'onWriter'> {
  /** How long things go wrong. */
  readonly forMs: number
  readonly clients: number
  readonly lastsMs: readonly [number, number]
  readonly pauseMs: readonly [number, number]
  /** How long clients may take, once all is mended, to see the end of what they submitted. */
  readonly healMs: number
  readonly log: (text: string) => void
}

export interface ChaosSummary extends Findings {
  readonly seed: number
  readonly faults: Readonly<Record<FaultName, number>>
  /** Why nothing could be cut off, where that is so. */
  readonly noPartitions: string | undefined
  /** Times that a coordinator began to write, after the first. */
  readonly takeovers: number
  readonly submitted: number
  readonly longestGapMs: number
  readonly jobsPerSecond: number
  /** From the last mending to the last verdict. */
  readonly healedMs: number
  readonly errors: Readonly<Record<string, number>>
  /** Where logs and data are, of a run that found something. */
  readonly directory: string | undefined
}

/** A network of real processes under load, things that go wrong, and then: what must hold. */
export const runChaos = async (options: ChaosOptions): Promise<ChaosSummary | { readonly skip: string }> => {
  const { seed, forMs, clients, healMs, log } = options
  const random = seeded(seed)
  let writers = 0
  const opened = await openChaosNetwork({ ...options, onWriter: () => writers++ })
  if ('skip' in opened) return opened
  await using network = opened
  const { reason } = network.field
  if (reason !== undefined) log(`no partitions: ${reason}`)
  await until('a coordinator that is ready', () => network.balancer.ready === network.coordinators.length)
  const giveUp = new AbortController()
  const began = performance.now()
  const at = (): string => `${((performance.now() - began) / 1000).toFixed(1)} s`
  const load = openLoad({ client: network.client, clients, random: seeded(seed + 1), seed, signal: giveUp.signal })
  // Whoever waits for it hears of it; that may be later.
  load.done.catch(() => {})
  const faults = await plague(network, {
    ...options,
    random,
    signal: AbortSignal.timeout(forMs),
    onFault: (names) => log(`${at()}: ${names.join(', and ')} (${load.ended} jobs have ended)`),
  })
  const mendedAt = performance.now()
  log(`${at()}: all is mended`)
  load.stop()
  const timer = setTimeout(() => giveUp.abort(new Error(`not ended ${healMs} ms after all was mended`)), healMs)
  const failure = await load.done.then(
    () => undefined,
    (error: unknown) => String(error),
  )
  clearTimeout(timer)
  giveUp.abort()
  const healedMs = performance.now() - mendedAt
  const jobsPerSecond = (load.ended * 1000) / (performance.now() - began)
  log(`${at()}: checking ${load.submissions.length} jobs`)
  const findings = await check(network, load.submissions)
  const violations = [
    ...(failure === undefined ? [] : [`a client: ${failure}`]),
    ...network.fallen,
    ...findings.violations,
  ]
  if (violations.length > 0) network.keep()
  await network[Symbol.asyncDispose]()
  const left = network.leftovers()
  return {
    ...findings,
    violations: [...violations, ...left.map((process) => `left over: ${process}`)],
    ...{ seed, faults, noPartitions: reason, takeovers: Math.max(0, writers - 1), submitted: load.submissions.length },
    ...{ longestGapMs: load.longestGapMs, jobsPerSecond, healedMs, errors: Object.fromEntries(load.errors) },
    directory: violations.length > 0 ? network.directory : undefined,
  }
}
