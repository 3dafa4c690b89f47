import { BrambleError } from '@bramble/protocol'
import type { LocalImage } from './images/image-store.ts'
import type { Capabilities, Probe, Runtime, SandboxConfig } from './runtime.ts'

export interface AutoChoice {
  readonly name: string
  readonly probe: Probe<Runtime>
}

const either = (all: readonly Runtime[], has: (capabilities: Capabilities) => boolean): boolean =>
  all.some(({ capabilities }) => has(capabilities))

/**
 * A runtime made of runtimes: each sandbox goes to the first that offers what its configuration asks for (`runtime`,
 * `isolation`). The order is the preference. Its capabilities are those of the first, which is what a caller gets that
 * asks for nothing in particular; checkpoint and pause where any has them.
 *
 * Throws `no_isolation` when none of the choices is available: it never falls back to running without isolation.
 */
export const auto = (choices: readonly AutoChoice[]): Runtime => {
  const runtimes = choices.flatMap(({ probe }) => (probe.available ? [probe.runtime] : []))
  const first = runtimes[0]
  const missing = choices.flatMap(({ name, probe }) => (probe.available ? [] : [`${name}: ${probe.reason}`])).join('; ')
  if (!first) throw new BrambleError('no_isolation', { detail: missing || 'no runtime was tried' })

  const pick = (config: Pick<SandboxConfig, 'isolation' | 'runtime'>): Runtime => {
    const { isolation, runtime = 'auto' } = config
    const found = runtimes.find(
      (candidate) =>
        (runtime === 'auto' || candidate.name === runtime) &&
        (isolation === undefined || candidate.capabilities.isolation === isolation),
    )
    if (found) return found
    const asked = [runtime !== 'auto' && `runtime ${runtime}`, isolation && `isolation ${isolation}`].filter(Boolean)
    throw new BrambleError('unsupported', { detail: `no ${asked.join(' with ')} here${missing && ` (${missing})`}` })
  }

  const close = async (): Promise<void> => {
    await Promise.all(runtimes.map((runtime) => runtime.close()))
  }
  return {
    name: 'auto',
    capabilities: {
      ...first.capabilities,
      pause: either(runtimes, (capabilities) => capabilities.pause),
      checkpoint: either(runtimes, (capabilities) => capabilities.checkpoint),
    },
    // Only where it will be used first: another runtime readies it when it is asked for.
    prepare: (image: LocalImage, options) => first.prepare(image, options),
    create: async (config, options) => {
      const runtime = pick(config)
      if (runtime !== first) await runtime.prepare(config.image, options)
      return await runtime.create(config, options)
    },
    list: async () => (await Promise.all(runtimes.map((runtime) => runtime.list()))).flat(),
    reap: async () =>
      (await Promise.all(runtimes.map((runtime) => runtime.reap()))).reduce((sum, count) => sum + count, 0),
    forget: async (digest) => {
      await Promise.all(runtimes.map((runtime) => runtime.forget(digest)))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
