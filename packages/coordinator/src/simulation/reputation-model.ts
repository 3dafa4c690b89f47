import type { NodeId, ReputationEntry } from '@bramble/protocol'
import type { Document } from '../store/store.ts'
import { CONFIG } from './world.ts'

interface NodeModel {
  readonly anchor: boolean
  readonly entries: ReputationEntry[]
  agreements: number
  isConvicted: boolean
}

const ONCE: readonly string[] = ['agreed', 'alone', 'disagreed', 'convicted', 'timeout', 'failed', 'invalid', 'late']

/** What the entries of each node's record say, counted by a few lines of their own. */
export class ReputationModel {
  readonly #fail: (message: string) => void
  readonly #nodes = new Map<NodeId, NodeModel>()
  readonly #seen = new Set<string>()

  constructor(fail: (message: string) => void) {
    this.#fail = fail
  }

  exists(node: NodeId, anchor: boolean): void {
    this.#nodes.set(node, { anchor, entries: [], agreements: 0, isConvicted: false })
  }

  add(entry: ReputationEntry): void {
    const node = this.#nodes.get(entry.node)
    if (!node) {
      this.#fail(`an entry of reputation is of ${entry.node}, which never joined`)
      return
    }
    const name = `${entry.execution} ${entry.kind}`
    if (entry.execution !== undefined && ONCE.includes(entry.kind)) {
      if (this.#seen.has(name)) this.#fail(`${entry.execution} is in the record twice as \`${entry.kind}\``)
      this.#seen.add(name)
    }
    node.entries.push(entry)
    if (entry.kind === 'agreed') node.agreements++
    if (entry.kind === 'convicted') {
      node.agreements = 0
      node.isConvicted = true
    }
  }

  agreements(node: NodeId): number {
    return this.#nodes.get(node)?.agreements ?? 0
  }

  isEstablished(node: NodeId): boolean {
    const known = this.#nodes.get(node)
    return known !== undefined && (known.anchor || known.agreements >= CONFIG.verification.establishedAgreements)
  }

  isConvicted(node: NodeId): boolean {
    return this.#nodes.get(node)?.isConvicted === true
  }

  get convicted(): { node: NodeId; entry: ReputationEntry }[] {
    return [...this.#nodes].flatMap(([node, { entries }]) =>
      entries.filter(({ kind }) => kind === 'convicted').map((entry) => ({ node, entry })),
    )
  }

  /** A node as it was written is what its record up to there says. */
  check({ id, value }: Document): void {
    const { trust, logSeq, status } = value as {
      trust?: { agreements: number; disagreements: number; strikes: number; score: number }
      logSeq: number
      status: string
    }
    const entries = this.#nodes.get(id as NodeId)?.entries.filter(({ seq }) => seq <= logSeq) ?? []
    const { score: points } = CONFIG.verification.trust
    let agreements = 0
    let disagreements = 0
    let strikes = 0
    let score: number = points.initial
    for (const { kind } of entries) {
      if (kind === 'agreed') agreements++
      if (kind === 'disagreed') disagreements++
      if (kind === 'convicted') {
        strikes++
        agreements = 0
      }
      const change = kind === 'agreed' || kind === 'disagreed' || kind === 'silent' ? points[kind] : 0
      score = Math.min(points.max, Math.max(0, score + change))
    }
    const counted = { agreements, disagreements, strikes, score }
    const written = { ...{ agreements: 0, disagreements: 0, strikes: 0, score: points.initial }, ...trust }
    for (const name of ['agreements', 'disagreements', 'strikes', 'score'] as const)
      if (written[name] !== counted[name])
        this.#fail(
          `${id} was written with ${name} ${written[name]}, and its record up to ${logSeq} makes ${counted[name]}`,
        )
    if (written.score < 0 || written.score > 1000) this.#fail(`the score of ${id} is ${written.score}`)
    if (strikes > 0 && status !== 'suspended') this.#fail(`${id} was convicted, and is \`${status}\``)
  }
}
