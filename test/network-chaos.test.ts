import { skipWithout } from '@bramble/coordinator/testing'
import { oci } from '@bramble/runtime'
import { expect, test } from 'vitest'
import { openChaosNetwork } from './chaos/network.ts'
import { runChaos } from './chaos/run.ts'
import { startBramble } from './network-process.ts'
import { canRunNode } from './node-process.ts'

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

test('a real node goes on with what it runs when the coordinator that writes is killed, and runs it once', async (context) => {
  const reason = await canRunNode(oci())
  if (reason !== undefined) return skipWithout(context, 'oci', reason)
  const network = await openChaosNetwork({ coordinators: 2, workers: 0, liars: 0, seed: SEED })
  if ('skip' in network) return skipWithout(context, 'postgres', network.skip)
  await using _ = network
  await expect.poll(() => network.balancer.ready, { timeout: 20_000 }).toBe(2)
  await using worker = await startBramble(['worker', 'join', network.balancer.url, '--owner', 'real'], {
    ...{ BRAMBLE_API_KEY: network.apiKey, BRAMBLE_SSH_PORT: 'off' },
  })
  const client = network.client()
  const { id } = await client.jobs.submit({ command: 'sleep 3; echo survived', redundancy: 1 })
  await worker.line({ event: 'leased', job: id })
  const writer = network.coordinators.find(({ writes }) => writes)
  await writer?.end('SIGKILL')
  const job = await client.jobs.wait(id)
  expect(job).toMatchObject({ status: 'completed', result: { stdout: { content: 'survived\n' } } })
  expect(await client.jobs.executions(id)).toMatchObject([{ node: worker.ready.node, validity: 'agreed' }])
  expect(await client.jobs.verify(id)).toMatchObject({ valid: true })
}, 120_000)
