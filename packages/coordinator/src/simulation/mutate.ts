import { registerHooks } from 'node:module'
import { MUTATIONS } from './mutations.ts'

const SOURCES = new URL('..', import.meta.url).href
const applied = new Set<string>()

/**
 * Loads the simulation with one mutation put into the sources that it loads, beside the one without: what is imported under a name
 * with `?mutation=…` has its own imports under such names too.
 */
export const loadMutated = async (name: string): Promise<typeof import('./simulate.ts')> => {
  const mutation = MUTATIONS[name]
  if (!mutation) throw new RangeError(`there is no mutation ${JSON.stringify(name)}`)
  const query = `?mutation=${encodeURIComponent(name)}`
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context)
      const isOurs = context.parentURL?.endsWith(query) && resolved.url.startsWith(SOURCES)
      return isOurs ? { ...resolved, url: `${resolved.url}${query}` } : resolved
    },
    load(url, context, next) {
      const loaded = next(url, context)
      if (url !== `${SOURCES}${mutation.file}${query}`) return loaded
      const text =
        typeof loaded.source === 'string' ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString()
      if (text.split(mutation.from).length !== 2)
        throw new Error(`${mutation.file} has not exactly one ${JSON.stringify(mutation.from)}`)
      applied.add(name)
      return { ...loaded, source: text.replace(mutation.from, () => mutation.to) }
    },
  })
  try {
    const simulation = await import(`${new URL('simulate.ts', import.meta.url).href}${query}`)
    if (!applied.has(name)) throw new Error(`${mutation.file} is not loaded by a simulation`)
    return simulation
  } finally {
    hooks.deregister()
  }
}
