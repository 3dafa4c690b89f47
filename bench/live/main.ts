import { type BenchOptions, runSuite } from '../run-suite.ts'
import { exec } from './exec.ts'
import { files } from './files.ts'
import { idle } from './idle.ts'
import { ports } from './ports.ts'
import { terminal } from './terminal.ts'

/** `bramble bench live`: instances. */
export const runBench = (options: BenchOptions): Promise<boolean> =>
  runSuite('live', [exec, terminal, files, ports, idle], options)
