import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startDockerd } from '@bramble/runtime/testing/dockerd'
import { startNodeProcess } from '../../test/node-process.ts'
import { baseRootfs } from '../run/base-image.ts'
import { dockerRun, loadIntoDocker } from '../run/competitors.ts'
import { figuresOf, quantile, type Row, round, timed } from '../run/measure.ts'

const ROUNDS = 10
const LOAD_CLIENT = fileURLToPath(new URL('../live/load-client.ts', import.meta.url))
const CONNECTIONS = 8
const SPEC = { command: ['true'], image: 'base', mode: 'cached' }

interface Load {
  readonly requests: number
  readonly failed: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
}

/**
 * A result that is kept, asked for over HTTP: one client on one connection against `docker run` of the same command and image,
 * in alternating rounds; then as many as the node gives to a client process with several connections, on the same processors.
 */
export const cached = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  await using node = await startNodeProcess()
  await using docker = await startDockerd()
  const image = await loadIntoDocker(baseRootfs(node), docker.socketPath)
  const hit = async (): Promise<void> => {
    const { exitCode, cached: kept } = await node.call<{ exitCode: number; cached: boolean }>(
      'POST',
      '/api/v1/execute',
      SPEC,
    )
    if (exitCode !== 0 || !kept) throw new Error(`no kept result: exit ${exitCode}, cached ${kept}`)
  }
  await node.call('POST', '/api/v1/execute', SPEC)
  for (let i = 0; i < 200; i++) await hit()
  await dockerRun(image, docker.socketPath)
  const ours: number[] = []
  const theirs: number[] = []
  for (let at = 0; at < ROUNDS; at++) {
    for (let i = 0; i < (quick ? 50 : 300); i++) ours.push(await timed(hit))
    for (let i = 0; i < 2; i++) theirs.push(await timed(() => dockerRun(image, docker.socketPath)))
  }
  const { hostname, port } = new URL(node.url)
  const words = [hostname, port, '/api/v1/execute', String(CONNECTIONS), quick ? '2' : '8']
  const headers = [
    `authorization: Bearer ${node.key}`,
    'content-type: application/json',
    `body: ${JSON.stringify(SPEC)}`,
  ]
  const load = async (): Promise<Load> => {
    const { stdout } = await promisify(execFile)(process.execPath, [LOAD_CLIENT, ...words, ...headers])
    return JSON.parse(stdout) as Load
  }
  await load()
  const seen = await load()
  const p50 = quantile(ours, 0.5)
  const times = quantile(theirs, 0.5) / p50
  return [
    {
      name: 'a cached result over HTTP',
      figures: { ...figuresOf(ours), unit: 'ms' },
      goal: 'p50 <= 1.5 ms',
      reached: p50 <= 1.5,
    },
    {
      name: `cached results over HTTP, ${CONNECTIONS} connections`,
      figures: {
        perSecond: round(seen.perSecond, 0),
        p50: round(seen.p50),
        p99: round(seen.p99),
        failed: seen.failed,
        unit: 'ms',
      },
      goal: '>= 3,000/s',
      reached: seen.perSecond >= 3000 && seen.failed === 0,
    },
    {
      name: 'docker run --rm --network none IMAGE true',
      figures: { ...figuresOf(theirs), unit: 'ms', timesSlower: round(times, 0) },
      goal: '>= 100 times ours',
      reached: times >= 100,
    },
  ]
}
