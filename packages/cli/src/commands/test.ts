import type { CliCommand } from '../command.ts'
import { interrupt } from '../node/interrupt.ts'
import { checkoutRoot as root } from '../setup/checkout.ts'
import { isReady } from '../setup/setup.ts'
import { showSetup } from '../setup/show-setup.ts'
import { withDockerd } from '../suite/dockerd.ts'
import { runFuzz, runVitest } from '../suite/runners.ts'
import { addTallies, explainSkips, type Tally, tallyLine } from '../suite/tally.ts'

interface TestOptions {
  setup: boolean
  fuzz: boolean
  dataDir?: string
}

export default {
  name: 'test',
  summary: 'Set up what the tests need, and run them all',
  configure(command) {
    command
      .argument('[filter...]', 'only test files whose path contains one of these; the fuzz is then left out')
      .option('--no-setup', 'take the host as it is')
      .option('--no-fuzz', 'leave out the fuzz of the agent')
      .addHelpText(
        'after',
        '\nREQUIRE_DRIVERS=oci,docker,postgres,redis makes tests fail that would be skipped for want of these.',
      )
      .action(async (filters: string[], options: TestOptions) => {
        using interrupted = interrupt()
        const { signal } = interrupted
        if (options.setup) {
          const stream = process.stdout
          const outcomes = await showSetup({ test: true, dryRun: false, quiet: true, stream, signal })
          if (!isReady(outcomes)) console.log('The set-up is not complete: what needs the missing parts is skipped.')
        }
        const tally = await withDockerd((env) => runAll(filters, options, { env, signal }))
        for (const line of explainSkips(tally)) console.log(line)
        for (const name of tally.failed) console.log(`failed ${name}`)
        console.log(tallyLine(tally))
        if (tally.failed.length > 0) process.exitCode = 1
      })
  },
} satisfies CliCommand

const runAll = async (
  filters: string[],
  { fuzz }: TestOptions,
  context: { env: Record<string, string>; signal: AbortSignal },
): Promise<Tally> => {
  const tallies = [await runVitest(filters, { root, ...context })]
  if (fuzz && filters.length === 0) tallies.push(await runFuzz({ root, ...context }))
  return addTallies(tallies)
}
