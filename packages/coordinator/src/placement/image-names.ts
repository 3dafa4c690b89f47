import type { PlacedNode } from './placement.ts'

/** Nodes of each owner that say so. */
type Owners = Map<string, number>

interface Said {
  readonly by: Owners
  readonly byEstablished: Owners
}

const count = (owners: Owners, owner: string, by: 1 | -1): void => {
  const nodes = (owners.get(owner) ?? 0) + by
  if (nodes > 0) owners.set(owner, nodes)
  else owners.delete(owner)
}

/**
 * Which digest a name of an image stands for, as nodes say. All that run a job run what this answers, so that an answer that is
 * wrong is one they agree on: an owner has one say however many nodes it has, a node one say for each name, and where established
 * nodes know the name, no other is asked.
 */
export const imageNames = () => {
  const named = new Map<string, Map<string, Said>>()
  return {
    count({ owner, established, report }: PlacedNode, by: 1 | -1): void {
      const seen = new Set<string>()
      for (const { name, digest } of report.images) {
        if (name === undefined || seen.has(name)) continue
        seen.add(name)
        const digests = named.get(name) ?? new Map<string, Said>()
        const said = digests.get(digest) ?? { by: new Map(), byEstablished: new Map() }
        count(said.by, owner, by)
        if (established) count(said.byEstablished, owner, by)
        if (said.by.size > 0) digests.set(digest, said)
        else digests.delete(digest)
        if (digests.size > 0) named.set(name, digests)
        else named.delete(name)
      }
    },

    digestOf(name: string): string | undefined {
      let best: { digest: string; said: Said } | undefined
      for (const [digest, said] of named.get(name) ?? [])
        if (best === undefined || isBefore({ digest, said }, best)) best = { digest, said }
      return best?.digest
    },
  }
}

const isBefore = (a: { digest: string; said: Said }, b: { digest: string; said: Said }): boolean =>
  (a.said.byEstablished.size - b.said.byEstablished.size ||
    a.said.by.size - b.said.by.size ||
    (a.digest < b.digest ? 1 : -1)) > 0
