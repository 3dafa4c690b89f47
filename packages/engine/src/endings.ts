import type { Sandbox } from '@bramble/runtime'
import type { Load } from './load.ts'
import type { Clock, EngineNotice, Log } from './options.ts'
import type { Quiet } from './quiet.ts'

/** Destroys sandboxes in the background, a few at once, in the order given up. */
export interface Endings {
  /** Takes the sandbox over. `now`: its command still runs, do not wait for a quiet moment. */
  bury(sandbox: Sandbox, options?: { now?: boolean }): void
  /** Resolves when everything given up so far is gone; does not wait for a quiet moment. */
  drain(): Promise<void>
}

export interface EndingsDeps {
  readonly load: Load
  readonly maxDestroying: number
  /** More than this many do not wait for a quiet moment. */
  readonly maxPatient: number
  readonly quiet: Quiet
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  /** A sandbox is gone: there is room for another. */
  readonly onGone: () => void
}

/** What a command left running in its sandbox runs on so long, at most, before its turn comes. */
const DESTROY_WITHIN_MS = 250

interface Burial {
  readonly sandbox: Sandbox
  readonly gone: () => void
}

export const createEndings = (deps: EndingsDeps): Endings => {
  const { load, quiet, clock, log, notice } = deps
  const waiting: Burial[] = []
  const all = new Set<Promise<void>>()
  let destroying = 0

  const destroy = async ({ sandbox, gone }: Burial): Promise<void> => {
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
    gone()
    pump()
    deps.onGone()
  }

  const pump = (): void => {
    while (destroying < deps.maxDestroying) {
      const burial = waiting.shift()
      if (!burial) return
      void destroy(burial)
    }
  }

  return {
    bury(sandbox, options) {
      load.ending++
      load.endingMb += sandbox.config.resources.memoryMb
      const { promise, resolve: gone } = Promise.withResolvers<void>()
      all.add(promise)
      void promise.then(() => all.delete(promise))
      const burial = { sandbox, gone }
      if (options?.now) {
        void destroy(burial)
        return
      }
      waiting.push(burial)
      quiet.whenQuiet(pump, load.ending > deps.maxPatient ? 0 : DESTROY_WITHIN_MS)
    },
    async drain() {
      pump()
      await Promise.all(all)
    },
  }
}
