import { resolve } from 'node:path'
import type { CliCommand } from '../command.ts'
import { EXIT, ExitError } from '../exit.ts'
import { interrupt } from '../node/interrupt.ts'
import { isReady } from '../setup/setup.ts'
import { showSetup } from '../setup/show-setup.ts'

export default {
  name: 'setup',
  summary: 'Make this host ready: packages, agent, launcher, base image',
  configure(command) {
    command
      .option('--dry-run', 'say what would be done, and change nothing', false)
      .option('--test', 'also what the tests need', false)
      .option('--data-dir <path>', 'where the node keeps its data')
      .action(async (options: { dryRun: boolean; test: boolean; dataDir?: string }) => {
        using interrupted = interrupt()
        const outcomes = await showSetup({
          dataDirectory: options.dataDir === undefined ? undefined : resolve(options.dataDir),
          test: options.test,
          dryRun: options.dryRun,
          quiet: false,
          stream: process.stdout,
          signal: interrupted.signal,
        })
        const stuck = outcomes.some(({ state }) => state === 'blocked' || state === 'failed')
        if (stuck)
          throw new ExitError(
            EXIT.failure,
            'the set-up is not complete',
            'Do what the lines above say, then run it again.',
          )
        if (options.dryRun)
          console.log(isReady(outcomes) ? 'Everything is in place.' : 'This was a dry run: nothing was changed.')
      })
  },
} satisfies CliCommand
