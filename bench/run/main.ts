import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { coldStart } from './cold-start.ts'
import { idlePool } from './idle-pool.ts'
import { printTable, type Row } from './measure.ts'
import { outputStream } from './output-stream.ts'
import { throughput } from './throughput.ts'
import { warmStart } from './warm-start.ts'

export interface BenchOptions {
  /** Fewer rounds and smaller sizes: does it run, and roughly where does it stand. */
  readonly quick: boolean
  /** Where the JSON goes. Default: `bench/results/run-<time>.json`. */
  readonly json?: string | undefined
}

const CASES = [warmStart, coldStart, throughput, outputStream, idlePool]

/** Runs every case, prints a table, keeps the JSON. Returns whether every goal was reached. */
export const runBench = async (options: BenchOptions): Promise<boolean> => {
  if (process.getuid?.() !== 0) throw new Error('bench run mounts and starts containers: run it as root')
  const startedAt = new Date().toISOString()
  const rows: Row[] = []
  for (const runCase of CASES) {
    console.error(`bench: ${runCase.name} …`)
    const measured = await runCase(options)
    for (const { name, figures } of measured) console.error(`  ${name}: ${JSON.stringify(figures)}`)
    rows.push(...measured)
  }
  printTable(rows)
  const path = resolve(
    options.json ?? fileURLToPath(new URL(`../results/run-${startedAt.replaceAll(':', '-')}.json`, import.meta.url)),
  )
  mkdirSync(dirname(path), { recursive: true })
  const host = { cpus: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version }
  writeFileSync(path, `${JSON.stringify({ bench: 'run', quick: options.quick, startedAt, host, rows }, null, 2)}\n`)
  console.error(`bench: results in ${path}`)
  return rows.every((row) => row.reached !== false)
}
