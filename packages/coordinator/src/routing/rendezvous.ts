import { hash } from 'node:crypto'

/**
 * Weighted rendezvous hashing with bounded loads: which of many nodes a key belongs to, without a table of keys.
 *
 * Each node draws a number u in (0, 1) for each key, a hash of both; the key's nodes in order are those with the least
 * -ln(u) / weight. A node of twice the weight then wins twice the keys, adding a node takes from each other one its share and
 * nothing else, and removing one moves only what it had (Thaler and Ravishankar, 1998; weights after Schindelhauer and
 * Schomaker, 2005). With bounds, nodes that hold as much as they may are passed over: no node gets more than `loadFactor`
 * times its share, rounded up (Mirrokni, Thorup and Zadimoghaddam, 2018).
 *
 * All nodes are looked at for each choice, in arrays of numbers: some microseconds for a thousand.
 */
export interface Rendezvous {
  /** Adds a node, or changes its weight. More than 0. */
  set(id: string, weight: number): void
  /** What it held is not counted any more. */
  remove(id: string): void
  has(id: string): boolean
  readonly size: number
  /** The first node of `key`'s order; with `bounded`, the first that may hold one more. `allowed` leaves others out. */
  choose(key: string, options?: ChooseOptions): string | undefined
  /** The first nodes of `key`'s order: where it goes when the ones before are gone. */
  order(key: string, limit: number): string[]
  /** So many keys more, or less, are held by the node. */
  hold(id: string, by: number): void
  held(id: string): number
  /** How many the node may hold while all hold `total`. */
  bound(id: string, total?: number): number
}

export interface ChooseOptions {
  readonly bounded?: boolean
  readonly allowed?: (id: string) => boolean
}

/** Two words of 32 bits that stand for a text. SHA-256, so that nobody finds users that all go to one node by accident of names. */
const wordsOf = (text: string): [number, number] => {
  const digest = hash('sha256', text, 'buffer')
  return [digest.readUInt32LE(0), digest.readUInt32LE(4)]
}

/** Every bit of the answer depends on every bit of the word: two rounds of xor-shift and odd multiplier. */
const mix = (word: number): number => {
  let x = word
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}

const TWO_32 = 2 ** 32
/** So that a share that is whole in arithmetic is not rounded up for the error of its last bit. */
const ROUNDING = 1e-9
/** Changes of weights after which their sum is made anew. */
const EXACT_AFTER = 1024

/** In (0, 1): 53 bits of a hash of node and key. */
const draw = (nodeHigh: number, nodeLow: number, keyHigh: number, keyLow: number): number => {
  const high = mix(nodeHigh ^ keyHigh)
  const low = mix(nodeLow ^ keyLow ^ high)
  return (high + (low + 0.5) / TWO_32) / TWO_32
}

export const rendezvous = ({ loadFactor = 1.25 }: { readonly loadFactor?: number } = {}): Rendezvous => {
  const ids: string[] = []
  const places = new Map<string, number>()
  let highs = new Uint32Array(16)
  let lows = new Uint32Array(16)
  let weights = new Float64Array(16)
  let loads = new Float64Array(16)
  let totalWeight = 0
  let totalLoad = 0

  const grow = (): void => {
    const larger = <T extends Uint32Array | Float64Array>(from: T, to: T): T => {
      to.set(from)
      return to
    }
    const size = highs.length * 2
    highs = larger(highs, new Uint32Array(size))
    lows = larger(lows, new Uint32Array(size))
    weights = larger(weights, new Float64Array(size))
    loads = larger(loads, new Float64Array(size))
  }
  let changes = 0
  const addWeight = (by: number): void => {
    totalWeight += by
    // The errors of many additions would add up.
    if (++changes % EXACT_AFTER !== 0) return
    totalWeight = 0
    for (let i = 0; i < ids.length; i++) totalWeight += weights[i] ?? 0
  }
  const boundOf = (place: number, total: number): number =>
    Math.ceil((loadFactor * total * (weights[place] ?? 0)) / totalWeight - ROUNDING)

  return {
    set: (id, weight) => {
      if (!(weight > 0) || !Number.isFinite(weight)) throw new RangeError(`a weight of ${weight}`)
      let place = places.get(id)
      if (place === undefined) {
        place = ids.length
        if (place === highs.length) grow()
        ids.push(id)
        places.set(id, place)
        const [high, low] = wordsOf(id)
        highs[place] = high
        lows[place] = low
        loads[place] = 0
        weights[place] = 0
      }
      const before = weights[place] ?? 0
      weights[place] = weight
      addWeight(weight - before)
    },
    remove: (id) => {
      const place = places.get(id)
      const last = ids.pop()
      if (place === undefined || last === undefined) {
        if (last !== undefined) ids.push(last)
        return
      }
      totalLoad -= loads[place] ?? 0
      const weight = weights[place] ?? 0
      places.delete(id)
      const from = ids.length
      if (place !== from) {
        ids[place] = last
        places.set(last, place)
        for (const column of [highs, lows, weights, loads]) column[place] = column[from] ?? 0
      }
      addWeight(-weight)
    },
    has: (id) => places.has(id),
    get size() {
      return ids.length
    },
    choose: (key, { bounded = false, allowed } = {}) => {
      const [keyHigh, keyLow] = wordsOf(key)
      let best = Number.POSITIVE_INFINITY
      let chosen: string | undefined
      for (let i = 0; i < ids.length; i++) {
        const weight = weights[i] ?? 0
        const u = draw(highs[i] ?? 0, lows[i] ?? 0, keyHigh, keyLow)
        // -ln(u) is never below 1 - u: nearly all nodes need no logarithm.
        if (1 - u >= best * weight) continue
        const score = -Math.log(u) / weight
        if (score >= best) continue
        if (bounded && (loads[i] ?? 0) >= boundOf(i, totalLoad + 1)) continue
        const id = ids[i] ?? ''
        if (allowed && !allowed(id)) continue
        best = score
        chosen = id
      }
      return chosen
    },
    order: (key, limit) => {
      const [keyHigh, keyLow] = wordsOf(key)
      const score = (i: number): number =>
        -Math.log(draw(highs[i] ?? 0, lows[i] ?? 0, keyHigh, keyLow)) / (weights[i] ?? 0)
      return ids
        .map((id, i) => ({ id, score: score(i) }))
        .sort((left, right) => left.score - right.score)
        .slice(0, limit)
        .map(({ id }) => id)
    },
    hold: (id, by) => {
      const place = places.get(id)
      if (place === undefined) return
      loads[place] = (loads[place] ?? 0) + by
      totalLoad += by
    },
    held: (id) => loads[places.get(id) ?? -1] ?? 0,
    bound: (id, total = totalLoad) => {
      const place = places.get(id)
      return place === undefined ? 0 : boundOf(place, total)
    },
  }
}
