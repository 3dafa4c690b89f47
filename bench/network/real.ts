import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Bramble } from '@bramble/sdk'
import { figuresOf, quantile, type Row } from '../run/measure.ts'
import { stopChild } from './servers.ts'

const MAIN = fileURLToPath(new URL('../../packages/cli/src/main.ts', import.meta.url))
const NODES = 3

/** A real command in sandboxes of three nodes, as `bramble up --nodes 3` has them: from submission to the agreed result, by the SDK. */
export const real = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-bench-network-'))
  const words = [
    'up',
    '--nodes',
    String(NODES),
    '--json',
    '--port',
    '0',
    '--data-dir',
    directory,
    '--log-level',
    'warn',
  ]
  const child = spawn(process.execPath, ['--initial-old-space-size=128', MAIN, ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    let ready: { url: string; apiKey: string } | undefined
    for await (const line of createInterface(child.stdout)) {
      if (!line.startsWith('{"type":"ready"')) continue
      ready = JSON.parse(line)
      break
    }
    if (!ready) throw new Error('the network did not come up: see above')
    child.stdout.resume()
    const bramble = new Bramble(ready)
    const times: number[] = []
    const count = quick ? 60 : 500
    for (let i = -10; i < count; i++) {
      const began = performance.now()
      const { id } = await bramble.jobs.submit({ command: ['echo', `hello ${i}`], redundancy: NODES, consensus: 2 })
      const job = await bramble.jobs.wait(id)
      const took = performance.now() - began
      if (job.status !== 'completed' || (job.verification?.agreed ?? 0) < 2)
        throw new Error(`${id} is ${job.status}: ${job.message}`)
      if (i >= 0) times.push(took)
    }
    return [
      {
        name: `echo on ${NODES} local nodes, n=3, k=2: from submission to the verified result`,
        figures: { ...figuresOf(times), unit: 'ms' },
        goal: 'p50 <= 150 ms',
        reached: quantile(times, 0.5) <= 150,
      },
    ]
  } finally {
    await stopChild(child)
    await rm(directory, { recursive: true, force: true })
  }
}
