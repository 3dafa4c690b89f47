import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { simulate } from './simulate.ts'

/** Seeds of one run; CI has thousands, and a night may have more. */
const SEEDS = Number(process.env.SIMULATION_SEEDS ?? 500)
const SCRIPT = fileURLToPath(new URL('../../../../scripts/simulate.ts', import.meta.url))

/** In a process of its own: it has a processor to itself, and sources can be mutated there. */
const run = (...argv: string[]): Promise<{ code: number; output: string }> =>
  new Promise((resolve) => {
    execFile(
      process.execPath,
      [SCRIPT, ...argv],
      { maxBuffer: 64 * 1024 * 1024, timeout: 590_000 },
      (error, stdout, stderr) => resolve({ code: error ? 1 : 0, output: `${stdout}${stderr}` }),
    )
  })

describe.concurrent('the simulated network', () => {
  it('keeps what must always hold, whatever goes wrong', { timeout: 600_000 }, async () => {
    const { code, output } = await run('--from', '1', '--count', String(SEEDS))
    expect(code, output).toBe(0)
    expect(output).toMatch(new RegExp(`${SEEDS} seeds from 1: .* 0 failed`))
  })

  it('finds every bug that is put in', { timeout: 600_000 }, async () => {
    const { code, output } = await run('--mutation', 'all')
    expect(code, output).toBe(0)
  })

  it('gives the same world for the same seed, step by step', async () => {
    for (const seed of [3, 7]) {
      const first = await simulate(seed, { trace: true })
      const again = await simulate(seed, { trace: true })
      expect(again.trace).toEqual(first.trace)
      expect(again.steps).toBe(first.steps)
      expect(first.executions).toBeGreaterThan(first.jobs)
    }
  })

  it('has less of the same in a smaller world', async () => {
    const small = await simulate(3, { jobs: 2, nodes: 3, faults: { coordinatorCrashes: 0 } })
    expect(small.jobs).toBe(2)
    expect(small.violations).toEqual([])
  })
})
