import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findCommand } from '../setup/run-command.ts'
import { runVisibly } from './run-tool.ts'
import type { Tally } from './tally.ts'

interface RunnerOptions {
  /** The checkout. */
  readonly root: string
  /** Variables for the tests, beside those of this process. */
  readonly env: Readonly<Record<string, string>>
  readonly signal: AbortSignal
}

/** Runs vitest over the whole checkout, or over the files that `filters` name. */
export const runVitest = async (filters: readonly string[], { root, env, signal }: RunnerOptions): Promise<Tally> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-test-'))
  try {
    const counts = join(directory, 'counts.json')
    const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
    const reporters = ['--reporter=default', `--reporter=${join(root, 'scripts', 'count-reporter.ts')}`]
    const argv = [process.execPath, vitest, 'run', ...reporters, ...filters]
    const code = await runVisibly(argv, { cwd: root, env: { ...env, BRAMBLE_TEST_COUNTS: counts }, signal })
    const tally = await readFile(counts, 'utf8').then(JSON.parse, () => undefined)
    if (tally === undefined) return { passed: 0, failed: [`vitest ended with ${code} before it counted`], skipped: [] }
    // No test failed, yet vitest says no: a threshold, or no test was found.
    if (code !== 0 && tally.failed.length === 0) return { ...tally, failed: [`vitest ended with ${code}`] }
    return tally
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

const FUZZ = 'fuzz of the agent'

/** The agent under libFuzzer and the sanitizers, for the fixed number of runs that its Makefile sets: one test. */
export const runFuzz = async ({ root, env, signal }: RunnerOptions): Promise<Tally> => {
  if (findCommand('clang') === undefined)
    return { passed: 0, failed: [], skipped: [{ name: FUZZ, reason: 'clang is not installed' }] }
  const code = await runVisibly(['make', '-C', 'packages/agent', 'fuzz'], { cwd: root, env, signal })
  return code === 0 ? { passed: 1, failed: [], skipped: [] } : { passed: 0, failed: [FUZZ], skipped: [] }
}
