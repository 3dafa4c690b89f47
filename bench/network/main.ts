import { type BenchOptions, runSuite } from '../run-suite.ts'
import { connected } from './connected.ts'
import { fullStore } from './full-store.ts'
import { idleLatency } from './idle-latency.ts'
import { journal } from './journal.ts'
import { placement } from './placement.ts'
import { queues } from './queues.ts'
import { real } from './real.ts'
import { throughput } from './throughput.ts'

/** `bramble bench network`: jobs on many nodes, beside queues that verify nothing. */
export const runBench = (options: BenchOptions): Promise<boolean> =>
  runSuite('network', [queues, throughput, idleLatency, real, placement, connected, journal, fullStore], options)
