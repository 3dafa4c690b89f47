import { type BenchOptions, runSuite } from '../run-suite.ts'
import { blobs } from './blobs.ts'
import { branches } from './branches.ts'
import { cached } from './cached.ts'
import { snapshots } from './snapshots.ts'

/** `bramble bench time`: cached results, branches, snapshots, blobs. */
export const runBench = (options: BenchOptions): Promise<boolean> =>
  runSuite('time', [cached, branches, snapshots, blobs], options)
