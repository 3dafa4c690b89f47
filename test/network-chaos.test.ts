import { skipWithout } from '@bramble/coordinator/testing'
import { expect, test } from 'vitest'
import { runChaos } from './chaos/run.ts'

const SEED = 20_261_121

test('processes are killed, stand still and are cut off: every accepted job ends once, and its receipts verify', async (context) => {
  const said: string[] = []
  const summary = await runChaos({
    ...{ seed: SEED, forMs: 15_000, coordinators: 2, workers: 5, liars: 1, clients: 4 },
    ...{ lastsMs: [200, 2_000], pauseMs: [200, 800], healMs: 90_000, log: (text) => said.push(text) },
  })
  if ('skip' in summary) return skipWithout(context, 'postgres', summary.skip)
  process.stderr.write(`chaos with the seed ${SEED}: ${summary.noPartitions ?? 'with partitions'}\n`)
  expect(summary.violations, said.join('\n')).toEqual([])
  expect(summary.jobs.completed).toBeGreaterThan(10)
}, 180_000)
