import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { printTable, type Row } from './run/measure.ts'

export interface BenchOptions {
  /** Fewer rounds and smaller sizes: does it run, and roughly where does it stand. */
  readonly quick: boolean
  /** Where the JSON goes. Default: `bench/results/<suite>-<time>.json`. */
  readonly json?: string | undefined
}

export type BenchCase = (options: BenchOptions) => Promise<Row[]>

/** Runs every case, prints a table, keeps the JSON. Returns whether every goal was reached. */
export const runSuite = async (suite: string, cases: readonly BenchCase[], options: BenchOptions): Promise<boolean> => {
  if (process.getuid?.() !== 0) throw new Error(`bench ${suite} mounts and starts containers: run it as root`)
  const startedAt = new Date().toISOString()
  const rows: Row[] = []
  for (const runCase of cases) {
    console.error(`bench: ${runCase.name} …`)
    const measured = await runCase(options)
    for (const { name, figures } of measured) console.error(`  ${name}: ${JSON.stringify(figures)}`)
    rows.push(...measured)
  }
  printTable(rows)
  const path = resolve(
    options.json ??
      fileURLToPath(new URL(`./results/${suite}-${startedAt.replaceAll(':', '-')}.json`, import.meta.url)),
  )
  mkdirSync(dirname(path), { recursive: true })
  const host = { cpus: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem(), node: process.version }
  writeFileSync(path, `${JSON.stringify({ bench: suite, quick: options.quick, startedAt, host, rows }, null, 2)}\n`)
  console.error(`bench: results in ${path}`)
  return rows.every((row) => row.reached !== false)
}
