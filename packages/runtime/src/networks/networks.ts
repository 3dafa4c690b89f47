import type { NetworkPolicy, SandboxId } from '@bramble/protocol'

/**
 * The networks of one node's sandboxes: network namespaces, each joined to the host by a link of its own, made ahead, so that
 * taking one costs little more than setting its policy.
 *
 * Enforced on the host's side, whatever the sandbox does inside: `egress` reaches public addresses only; never the host,
 * link-local addresses (the metadata services of clouds), private and shared ranges, multicast, or another sandbox.
 * `{allow}` reaches the addresses and CIDRs it names (private ones too, for they were asked for; the host's own and
 * link-local ones only when named exactly), and the addresses that its host names had when the sandbox asked for them:
 * names are resolved by the node's resolver, which answers only what the policy allows and lets through, for the time to
 * live of the answer, what it answered. A name that leads to a private address is refused.
 *
 * What a crash left (links, namespaces, rules) is removed by `reap`, but for those of sandboxes that live on.
 */
export interface Networks extends AsyncDisposable {
  /** What this host can do: `[]` and the reason where it cannot. */
  readonly offers: readonly ('egress' | 'allow')[]
  readonly reason?: string
  /** Takes a prepared network, or makes one where none is ready, and sets its policy. */
  take(sandbox: SandboxId, policy: NetworkPolicy, limits?: NetworkLimits): Promise<SandboxNetwork>
  /** Takes over the network of a sandbox that lives on, and sets its policy anew. Rejects with `not_found`. */
  attach(sandbox: SandboxId, policy: NetworkPolicy, limits?: NetworkLimits): Promise<SandboxNetwork>
  /** Returns how many links were removed. */
  reap(keep: ReadonlySet<SandboxId>): Promise<number>
  /** Networks in use stay as they are, without a resolver, for whoever attaches to them next. */
  close(): Promise<void>
}

export interface NetworkLimits {
  /** Of each direction. Default 1,000 Mbit/s. */
  readonly bandwidthMbit?: number
  /** Open at once. Default 2,500. */
  readonly connections?: number
}

export interface SandboxNetwork extends AsyncDisposable {
  readonly sandbox: SandboxId
  /** First host id of the user namespace that owns the network namespace: the sandbox must run with it. */
  readonly uidBase: number
  /**
   * For setns(2), valid for whoever shares this process's view of /proc: the OCI runtime's namespace paths. Empty after
   * `attach`: the sandbox itself holds its namespaces.
   */
  readonly userNamespacePath: string
  readonly networkNamespacePath: string
  /** For the sandbox's /etc/resolv.conf. */
  readonly resolver: string
  readonly address: string
  setPolicy(policy: NetworkPolicy): Promise<void>
  /** Resolves a host name for the sandbox, by its policy: what its tunnels to names need. Rejects with `port_closed`. */
  resolve(name: string): Promise<string[]>
  /** Bytes of packets that were let through, since the sandbox began; DNS is not counted. Cheap. */
  stats(): Promise<{ egressBytes: number; ingressBytes: number }>
  /** The sandbox is gone: the network is not used again, a fresh one takes its place. Safe twice. */
  release(): Promise<void>
}
