import { BrambleError, type Isolation, type RuntimeChoice } from '@bramble/protocol'
import { joinSeals, runtimeOfSeal } from './auto-seals.ts'
import type { Capabilities, Runtime } from './runtime.ts'

/** What a sandbox's configuration may insist on. */
export interface Wanted {
  readonly runtime?: RuntimeChoice | undefined
  readonly isolation?: Isolation | undefined
}

export interface AutoRuntime extends Runtime {
  /** The driver that would make such a sandbox; throws `unsupported` where none offers it. */
  select(wanted: Wanted): Runtime
}

/**
 * A runtime made of runtimes, those that probing found, best first: each sandbox goes to the first that offers what its
 * configuration asks for (`runtime`, `isolation`). Its capabilities are those of the first, which is what a caller gets
 * who asks for nothing in particular; pause and checkpoint where any has them. `unavailable` says why others are not
 * there, for the errors.
 *
 * Throws `no_isolation` when there is none: it never falls back to running without isolation.
 */
export const auto = (
  runtimes: readonly Runtime[],
  unavailable: readonly { name: string; reason: string }[] = [],
): AutoRuntime => {
  const first = runtimes[0]
  if (!first) {
    const reasons = unavailable.map(({ name, reason }) => `${name}: ${reason}`).join('; ')
    throw new BrambleError('no_isolation', { detail: reasons || 'no runtime was tried' })
  }

  const select = ({ runtime: choice = 'auto', isolation }: Wanted): Runtime => {
    const found = runtimes.find(
      ({ name, capabilities }) =>
        (choice === 'auto' || name === choice) && (isolation === undefined || capabilities.isolation === isolation),
    )
    if (found) return found
    const asked = [choice !== 'auto' && `the runtime \`${choice}\``, isolation && `the isolation \`${isolation}\``]
    const reason = unavailable.find(({ name }) => name === choice)?.reason
    throw new BrambleError('unsupported', {
      detail: `this node does not offer ${asked.filter(Boolean).join(' with ')}${reason ? ` (${reason})` : ''}`,
    })
  }
  const some = (has: (capabilities: Capabilities) => boolean): boolean =>
    runtimes.some(({ capabilities }) => has(capabilities))
  // Of the first that has any: what a sandbox shares lies with its driver.
  const shared = runtimes.find(({ volumes }) => volumes !== undefined)?.volumes
  const seals = joinSeals(runtimes)
  const close = async (): Promise<void> => {
    await Promise.all(runtimes.map((runtime) => runtime.close()))
  }
  return {
    name: 'auto',
    capabilities: {
      ...first.capabilities,
      pause: some(({ pause }) => pause),
      seals: some(({ seals }) => seals),
      checkpoint: some(({ checkpoint }) => checkpoint),
    },
    select,
    // Only where it will be used first: another driver readies it when it is asked for.
    prepare: (image, options) => first.prepare(image, options),
    create: async (config, options) => {
      const { runtime: choice = 'auto', from } = config
      // A seal is of its driver: who names none means that one.
      const runtime = from && choice === 'auto' ? await runtimeOfSeal(runtimes, from.seal) : select(config)
      if (runtime !== first) await runtime.prepare(config.image, options)
      return await runtime.create(config, options)
    },
    attach: async (config, options) => {
      for (const runtime of runtimes.filter(({ capabilities }) => capabilities.keep)) {
        const ids = await runtime.list()
        if (ids.includes(config.id)) return await runtime.attach(config, options)
      }
      throw new BrambleError('not_found', { detail: `there is no sandbox ${config.id} on this host` })
    },
    ...(shared && { volumes: shared }),
    ...(seals && { seals }),
    layers: {
      list: async () => (await Promise.all(runtimes.map(({ layers }) => layers.list()))).flat(),
      usedBytes: async (layer) =>
        (await Promise.all(runtimes.map(({ layers }) => layers.usedBytes(layer)))).reduce((sum, n) => sum + n, 0),
      remove: async (layer) => {
        await Promise.all(runtimes.map(({ layers }) => layers.remove(layer)))
      },
    },
    list: async () => (await Promise.all(runtimes.map((runtime) => runtime.list()))).flat(),
    reap: async (keep) =>
      (await Promise.all(runtimes.map((runtime) => runtime.reap(keep)))).reduce((sum, n) => sum + n, 0),
    forget: async (digest) => {
      await Promise.all(runtimes.map((runtime) => runtime.forget(digest)))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
