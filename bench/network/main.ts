import { type BenchOptions, runSuite } from '../run-suite.ts'
import { queues } from './queues.ts'

/** `bramble bench network`: jobs on many nodes, beside queues that verify nothing. */
export const runBench = (options: BenchOptions): Promise<boolean> => runSuite('network', [queues], options)
