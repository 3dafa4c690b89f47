import { baseImageStep } from './base-image-step.ts'
import { criuStep } from './criu-step.ts'
import { s3ServerStep } from './s3-server-step.ts'
import { runSteps, type Step, type StepObserver, type StepOutcome } from './step.ts'
import { hostPackagesStep, makeStep } from './steps.ts'

export interface SetupOptions {
  /** The checkout. */
  readonly root: string
  readonly dataDirectory: string
  readonly isRoot: boolean
  /** Also what only the tests need. */
  readonly test: boolean
  readonly dryRun: boolean
  readonly observer: StepObserver
  readonly signal: AbortSignal
}

export const setupSteps = (options: Pick<SetupOptions, 'root' | 'dataDirectory' | 'isRoot' | 'test'>): Step[] => [
  hostPackagesStep(options),
  makeStep('Agent', options.root, 'packages/agent'),
  makeStep('Launcher', options.root, 'packages/runtime/launcher'),
  criuStep(),
  baseImageStep(options),
  ...(options.test ? [s3ServerStep(options)] : []),
]

/** Makes this host ready. Running it again is safe and quick; it never asks. */
export const setup = (options: SetupOptions): Promise<StepOutcome[]> => runSteps(setupSteps(options), options)

/** Whether every step is in place or done. */
export const isReady = (outcomes: readonly StepOutcome[]): boolean =>
  outcomes.every(({ state }) => state === 'in place' || state === 'done')
