/**
 * How likely a result is right, by what is known of those who say so: Sarmenta's credibility with spot-checks
 * (L. Sarmenta, "Sabotage-tolerance mechanisms for volunteer computing systems", 2002). `assumedLiars` is the share of
 * nodes that are taken to lie before anything is known of them.
 *
 * Only products and quotients of doubles in a fixed order: the same everywhere, as a replayed log demands.
 */

const MOST_CREDIBLE = 1 - 1e-9

/** Of a node with so many agreements: 1 - f/((1-f)·k·e), never less than that of one nobody knows. */
export const nodeCredibility = (agreements: number, assumedLiars: number): number => {
  const unknown = 1 - assumedLiars
  if (!(agreements > 0)) return unknown
  const known = 1 - assumedLiars / (unknown * agreements * Math.E)
  return Math.min(Math.max(unknown, known), MOST_CREDIBLE)
}

/**
 * The probability that the first of these groups is right, given that at most one is; each group is the credibilities
 * of its members. That all are wrong counts among the possibilities.
 */
export const groupCredibility = (groups: readonly (readonly number[])[]): number => {
  const right = groups.map((members) => members.reduce((product, credibility) => product * credibility, 1))
  const wrong = groups.map((members) => members.reduce((product, credibility) => product * (1 - credibility), 1))
  const only = (index: number): number =>
    wrong.reduce((product, chance, other) => product * (other === index ? 1 : chance), right[index] ?? 0)
  let all = wrong.reduce((product, chance) => product * chance, 1)
  for (const index of groups.keys()) all += only(index)
  return all > 0 ? only(0) / all : 0
}
