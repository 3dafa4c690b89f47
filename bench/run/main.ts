import { type BenchOptions, runSuite } from '../run-suite.ts'
import { coldStart } from './cold-start.ts'
import { idlePool } from './idle-pool.ts'
import { outputStream } from './output-stream.ts'
import { throughput } from './throughput.ts'
import { warmStart } from './warm-start.ts'

/** `bramble bench run`: executions. */
export const runBench = (options: BenchOptions): Promise<boolean> =>
  runSuite('run', [warmStart, coldStart, throughput, outputStream, idlePool], options)
