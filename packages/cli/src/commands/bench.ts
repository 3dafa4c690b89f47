import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { CliCommand } from '../command.ts'
import { EXIT, ExitError } from '../exit.ts'
import { checkoutRoot } from '../setup/checkout.ts'

interface BenchOptions {
  readonly quick: boolean
  readonly json?: string
}

/**
 * What `bench/<suite>/main.ts` exports: runs the suite, prints its table, writes its JSON, and resolves with whether
 * every goal that it has was reached.
 */
interface BenchModule {
  runBench(options: { quick: boolean; json?: string | undefined }): Promise<boolean>
}

const benchDirectory = join(checkoutRoot, 'bench')
const mainOf = (suite: string): string => join(benchDirectory, suite, 'main.ts')

const suites = (): string[] => {
  try {
    return readdirSync(benchDirectory).filter((name) => existsSync(mainOf(name)))
  } catch {
    return []
  }
}

export default {
  name: 'bench',
  summary: 'Measure this host: run a suite of benchmarks',
  configure(command) {
    command
      .argument(
        '<suite>',
        'run: how fast commands run, side by side with the alternatives; live: instances; time: what is kept; network: jobs on many nodes',
      )
      .option('--quick', 'fewer rounds and smaller sizes', false)
      .option('--json <file>', 'where the numbers go (default: bench/results/)')
      .action(async (suite: string, options: BenchOptions) => {
        const known = suites()
        if (!known.includes(suite))
          throw new ExitError(
            EXIT.failure,
            `there is no suite ${JSON.stringify(suite)}`,
            known.length > 0 ? `There are: ${known.join(', ')}.` : 'Benchmarks come with a checkout of the repository.',
          )
        const { runBench }: BenchModule = await import(pathToFileURL(mainOf(suite)).href)
        const json = options.json === undefined ? undefined : resolve(options.json)
        if (!(await runBench({ quick: options.quick, json }))) process.exitCode = 1
      })
  },
} satisfies CliCommand
