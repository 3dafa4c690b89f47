import type { Commit, Lease, LeaseRef, NodeId } from '@bramble/protocol'

/** What nodes know of each other that they should not: for those who make use of it. */
export class Gossip {
  readonly leases: { readonly node: NodeId; readonly lease: Lease }[] = []
  readonly commits: { readonly node: NodeId; readonly commit: Commit }[] = []

  commitOfAnother(node: NodeId, random: () => number): Commit | undefined {
    const others = this.commits.slice(-20).filter((each) => each.node !== node)
    return others[Math.floor(random() * others.length)]?.commit
  }

  leasesOfOthers(node: NodeId, random: () => number): LeaseRef[] {
    return this.leases
      .slice(-10)
      .filter((each) => each.node !== node && random() < 0.5)
      .map(({ lease: { execution, token } }) => ({ execution, token }))
  }
}
