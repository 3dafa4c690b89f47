import { startDockerd } from '@bramble/runtime/testing/dockerd'
import { prewarm, startNodeProcess } from '../../test/node-process.ts'
import { baseRootfs } from './base-image.ts'
import { dockerRun, loadIntoDocker } from './competitors.ts'
import { figuresOf, quantile, type Row, round, timed } from './measure.ts'

const POOL = 32
const SPEC = { command: ['true'], image: 'base' }

/**
 * One client on one connection runs `true`, each time in a fresh sandbox from the pool, against `docker run --rm
 * --network none` of the same image. Rounds of both alternate. Within a round requests follow each other at once, while
 * the node makes the next sandboxes; between rounds the pool fills up.
 */
export const warmStart = async (options: { quick: boolean }): Promise<Row[]> => {
  const rounds = options.quick ? 4 : 12
  await using node = await startNodeProcess()
  await using docker = await startDockerd()
  const image = await loadIntoDocker(baseRootfs(node), docker.socketPath)
  const ours: number[] = []
  const theirs: number[] = []
  const starts: number[] = []
  await dockerRun(image, docker.socketPath)
  for (let round = 0; round < rounds; round++) {
    await prewarm(node, POOL)
    for (let i = 0; i < POOL; i++) {
      const began = performance.now()
      const result = await node.call<{ exitCode: number; timings: { startMs: number } }>(
        'POST',
        '/api/v1/execute',
        SPEC,
      )
      ours.push(performance.now() - began)
      starts.push(result.timings.startMs)
      if (result.exitCode !== 0) throw new Error(`true ended with ${result.exitCode}`)
    }
    for (let i = 0; i < 3; i++) theirs.push(await timed(() => dockerRun(image, docker.socketPath)))
  }
  const p50 = quantile(ours, 0.5)
  const times = quantile(theirs, 0.5) / p50
  return [
    {
      name: 'execute `true` over HTTP from the pool',
      figures: { ...figuresOf(ours), unit: 'ms', startP50: round(quantile(starts, 0.5)) },
      goal: 'p50 <= 5 ms',
      reached: p50 <= 5,
    },
    {
      name: 'docker run --rm --network none IMAGE true',
      figures: { ...figuresOf(theirs), unit: 'ms', timesSlower: round(times, 0) },
      goal: '>= 60 times ours',
      reached: times >= 60,
    },
  ]
}
