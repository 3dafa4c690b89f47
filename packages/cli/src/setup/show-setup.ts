import { readConfig } from '../config.ts'
import { dataDirectory as defaultDataDirectory } from '../data-directory.ts'
import { hasColor, isLive } from '../terminal.ts'
import { checkoutRoot } from './checkout.ts'
import { stepProgress } from './progress.ts'
import { setup } from './setup.ts'
import { lockSetup } from './setup-lock.ts'
import type { StepObserver, StepOutcome } from './step.ts'

export interface ShowSetupOptions {
  readonly dataDirectory?: string | undefined
  readonly test: boolean
  readonly dryRun: boolean
  /** Say nothing of steps that have nothing to do. */
  readonly quiet: boolean
  readonly stream: NodeJS.WriteStream
  readonly signal: AbortSignal
}

/** Runs the set-up and shows it on `stream`. */
export const showSetup = async (options: ShowSetupOptions): Promise<StepOutcome[]> => {
  const config = readConfig()
  const { stream } = options
  const { signal } = options
  const onWait = (): void =>
    void stream.write('bramble: another set-up of this checkout is under way; this one waits for it\n')
  using _lock = options.dryRun ? undefined : await lockSetup(checkoutRoot, { signal, onWait })
  using progress = stepProgress({ stream, live: isLive(stream, config), color: hasColor(stream, config) })
  const observer: StepObserver = {
    ...progress,
    ended: (outcome) => {
      if (!options.quiet || outcome.state !== 'in place') progress.ended(outcome)
    },
  }
  return await setup({
    root: checkoutRoot,
    dataDirectory: options.dataDirectory ?? defaultDataDirectory(config),
    isRoot: config.isRoot,
    test: options.test,
    dryRun: options.dryRun,
    signal,
    observer,
  })
}

/** Before a node starts. What is blocked or fails is shown; whether the node can do without it, its start says. */
export const setUp = async (dataDirectory: string, signal: AbortSignal): Promise<void> => {
  await showSetup({ test: false, dryRun: false, quiet: true, stream: process.stderr, signal, dataDirectory })
}
