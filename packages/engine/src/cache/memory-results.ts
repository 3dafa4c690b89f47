import type { CachedResult } from './result-cache.ts'

export interface MemoryOptions {
  readonly maxBytes: number
  readonly maxEntries: number
  readonly onEvicted: (count: number) => void
}

/** Results in memory, the least recently used first to go; of the tenant that has the most, so that none can push out all others. */
export interface MemoryResults {
  /** Counts as a use. */
  get(tenant: string, inputHash: string): CachedResult | undefined
  set(tenant: string, inputHash: string, entry: CachedResult): void
  remove(tenant: string, inputHash: string): boolean
  /** Removes those for which it is true. */
  removeWhere(tenant: string | undefined, test: (entry: CachedResult) => boolean): string[]
  tenants(): string[]
  totals(tenant?: string): { entries: number; sizeBytes: number }
}

interface OfTenant {
  readonly entries: Map<string, CachedResult>
  sizeBytes: number
}

/** Beside its texts: the objects, the keys, the labels. */
const ENTRY_BYTES = 2048

/** Texts are held twice: as they are, and in the prepared JSON. */
const sizeOf = ({ result, jsonTail }: CachedResult): number => {
  let size = ENTRY_BYTES + jsonTail.length + result.stdout.length + result.stderr.length
  for (const output of Object.values(result.outputs)) if ('content' in output) size += output.content.length
  return size
}

export const memoryResults = ({ maxBytes, maxEntries, onEvicted }: MemoryOptions): MemoryResults => {
  const tenants = new Map<string, OfTenant>()
  let sizeBytes = 0
  let entries = 0

  const drop = (tenant: string, of: OfTenant, inputHash: string, entry: CachedResult): void => {
    const size = sizeOf(entry)
    of.entries.delete(inputHash)
    of.sizeBytes -= size
    sizeBytes -= size
    entries--
    if (of.entries.size === 0) tenants.delete(tenant)
  }

  const largest = (): [string, OfTenant] | undefined => {
    let found: [string, OfTenant] | undefined
    for (const one of tenants) if (!found || one[1].sizeBytes > found[1].sizeBytes) found = one
    return found
  }

  const makeRoom = (): void => {
    let evicted = 0
    while (sizeBytes > maxBytes || entries > maxEntries) {
      const [tenant, of] = largest() ?? []
      const [oldest] = of?.entries ?? []
      if (tenant === undefined || !of || !oldest) break
      drop(tenant, of, ...oldest)
      evicted++
    }
    if (evicted > 0) onEvicted(evicted)
  }

  return {
    get(tenant, inputHash) {
      const of = tenants.get(tenant)
      const entry = of?.entries.get(inputHash)
      if (!of || !entry) return undefined
      of.entries.delete(inputHash)
      of.entries.set(inputHash, entry)
      return entry
    },
    set(tenant, inputHash, entry) {
      const before = tenants.get(tenant)
      const old = before?.entries.get(inputHash)
      if (before && old) drop(tenant, before, inputHash, old)
      const size = sizeOf(entry)
      if (size > maxBytes) return
      const of = tenants.get(tenant) ?? { entries: new Map(), sizeBytes: 0 }
      tenants.set(tenant, of)
      of.entries.set(inputHash, entry)
      of.sizeBytes += size
      sizeBytes += size
      entries++
      makeRoom()
    },
    remove(tenant, inputHash) {
      const of = tenants.get(tenant)
      const entry = of?.entries.get(inputHash)
      if (!of || !entry) return false
      drop(tenant, of, inputHash, entry)
      return true
    },
    removeWhere(tenant, test) {
      const gone: string[] = []
      for (const name of tenant === undefined ? [...tenants.keys()] : [tenant]) {
        const of = tenants.get(name)
        if (!of) continue
        for (const [inputHash, entry] of [...of.entries]) {
          if (!test(entry)) continue
          drop(name, of, inputHash, entry)
          gone.push(inputHash)
        }
      }
      return gone
    },
    tenants: () => [...tenants.keys()],
    totals(tenant) {
      if (tenant === undefined) return { entries, sizeBytes }
      const of = tenants.get(tenant)
      return { entries: of?.entries.size ?? 0, sizeBytes: of?.sizeBytes ?? 0 }
    },
  }
}
