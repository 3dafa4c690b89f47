import type { Sandbox } from '@bramble/runtime'
import type { Load } from './load.ts'
import type { Clock, EngineNotice, Log } from './options.ts'
import type { Quiet } from './quiet.ts'

/** Destroys sandboxes in the background, a few at once, in the order given up. */
export interface Endings {
  /** Takes the sandbox over. `now`: its command still runs, do not wait for a quiet moment. */
  bury(sandbox: Sandbox, options?: { now?: boolean }): void
  /** Resolves when everything given up so far is gone; nothing waits for a quiet moment any more. */
  drain(): Promise<void>
}

export interface EndingsDeps {
  readonly load: Load
  readonly maxDestroying: number
  readonly quiet: Quiet
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  /** A sandbox is gone: there is room for another. */
  readonly onGone: () => void
}

export const createEndings = (deps: EndingsDeps): Endings => {
  const { load, quiet, clock, log, notice } = deps
  const waiting: Sandbox[] = []
  let destroying = 0
  let draining = false
  let drained: (() => void)[] = []

  const destroy = async (sandbox: Sandbox): Promise<void> => {
    destroying++
    const startedMs = clock.monotonicMs()
    try {
      await sandbox.destroy()
      notice({ type: 'sandboxDestroyed', runtime: sandbox.runtime, durationMs: clock.monotonicMs() - startedMs })
    } catch (error) {
      log.error({ err: error, sandbox: sandbox.id }, 'a sandbox could not be destroyed; the next start reaps it')
      notice({ type: 'sandboxNotDestroyed', runtime: sandbox.runtime })
    }
    destroying--
    load.ending--
    load.endingMb -= sandbox.config.resources.memoryMb
    load.boxesMb -= sandbox.config.resources.memoryMb
    pump()
    deps.onGone()
    if (load.ending === 0) {
      for (const resolve of drained) resolve()
      drained = []
    }
  }

  const pump = (): void => {
    while (destroying < deps.maxDestroying) {
      const sandbox = waiting.shift()
      if (!sandbox) return
      void destroy(sandbox)
    }
  }

  return {
    bury(sandbox, options) {
      load.ending++
      load.endingMb += sandbox.config.resources.memoryMb
      if (options?.now) {
        void destroy(sandbox)
        return
      }
      waiting.push(sandbox)
      if (draining) pump()
      else quiet.whenQuiet(pump)
    },
    drain() {
      draining = true
      pump()
      return load.ending === 0 ? Promise.resolve() : new Promise((resolve) => drained.push(resolve))
    },
  }
}
