/** Something that is in sets, and knows its place in each: so it is taken out without being looked for. */
export interface Member<T> {
  readonly of: T
  at: number
}

/** A set that gives its n-th member at once, in no order: what leaves is replaced by the last. */
export class IndexSet<T> {
  readonly #members: Member<T>[] = []

  get size(): number {
    return this.#members.length
  }

  add(of: T): Member<T> {
    const member = { of, at: this.#members.length }
    this.#members.push(member)
    return member
  }

  /** `member` is one that this set gave, and that has not been deleted from it. */
  delete(member: Member<T>): void {
    const last = this.#members.pop()
    if (last === undefined || last === member) return
    this.#members[member.at] = last
    last.at = member.at
  }

  at(index: number): T | undefined {
    return this.#members[index]?.of
  }
}
