/** How far a running step is. */
export interface StepProgress {
  /** 0 to 1; undefined when nobody knows. */
  readonly fraction?: number | undefined
  readonly note: string
}

/** What a step would do now, on this host. */
export interface Plan {
  /** One line: what `run` does. */
  readonly does: string
  /** Why it cannot be done here, and what a person can do about it, one line each. `run` is then not called. */
  readonly blocked?: readonly string[] | undefined
  run(report: (progress: StepProgress) => void, signal: AbortSignal): Promise<void>
}

/**
 * One step of the set-up. `plan` looks at the host, changes nothing, takes milliseconds, and gives nothing when the step
 * is done already; it is called again just before the step runs, since earlier steps may have changed the host.
 */
export interface Step {
  readonly title: string
  plan(): Promise<Plan | undefined>
}

export interface StepOutcome {
  readonly title: string
  readonly state: 'in place' | 'done' | 'would run' | 'blocked' | 'failed'
  readonly does?: string
  /** Why it is blocked or failed, one line each. */
  readonly reasons?: readonly string[]
  readonly tookMs: number
}

export interface StepObserver {
  started(title: string, plan: Plan): void
  progress(title: string, progress: StepProgress): void
  ended(outcome: StepOutcome): void
}

/** Runs steps in order. A step that is blocked or fails does not keep the others from being tried. */
export const runSteps = async (
  steps: readonly Step[],
  options: { dryRun: boolean; observer: StepObserver; signal: AbortSignal },
): Promise<StepOutcome[]> => {
  const outcomes: StepOutcome[] = []
  for (const step of steps) {
    options.signal.throwIfAborted()
    const outcome = await runStep(step, options)
    options.observer.ended(outcome)
    outcomes.push(outcome)
  }
  return outcomes
}

const runStep = async (
  { title, plan: makePlan }: Step,
  { dryRun, observer, signal }: { dryRun: boolean; observer: StepObserver; signal: AbortSignal },
): Promise<StepOutcome> => {
  const began = performance.now()
  const tookMs = (): number => Math.round(performance.now() - began)
  try {
    const plan = await makePlan()
    if (plan === undefined) return { title, state: 'in place', tookMs: tookMs() }
    const { does } = plan
    if (plan.blocked) return { title, state: 'blocked', does, reasons: plan.blocked, tookMs: tookMs() }
    if (dryRun) return { title, state: 'would run', does, tookMs: tookMs() }
    observer.started(title, plan)
    await plan.run((progress) => observer.progress(title, progress), signal)
    return { title, state: 'done', does, tookMs: tookMs() }
  } catch (error) {
    signal.throwIfAborted()
    const text = error instanceof Error ? error.message : String(error)
    return { title, state: 'failed', reasons: text.split('\n'), tookMs: tookMs() }
  }
}
