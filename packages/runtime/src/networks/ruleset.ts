import { type Cidr, formatAddress, formatCidr, maskOf, NEVER, RESERVED } from './addresses.ts'

/** What of one sandbox no policy may exceed. */
export const DEFAULT_BANDWIDTH_MBIT = 1000
export const DEFAULT_CONNECTIONS = 2500
export const bytesPerSecond = (mbit: number): number => mbit * 125_000
/** What may pass at once above the rate: 32 ms of it, and room for the largest packets (GSO). */
export const burstBytes = (mbit: number): number => Math.max(256 * 1024, Math.round(bytesPerSecond(mbit) * 0.032))

/** Packets to the resolver; a query is one. */
const QUERIES = '200/second burst 400 packets'
/** Packets that begin a connection: a bound on the work of counting them. */
const OPENINGS = '10000/second burst 20000 packets'

export interface RulesetOptions {
  readonly table: string
  /** Of the names of the node's links. */
  readonly prefix: string
  /** The addresses of the sandboxes and, first of them, of the host's ends. */
  readonly block: Cidr
  readonly udpPort: number
  readonly tcpPort: number
}

/** The set with the ranges of one prefix length. */
export const rangeSet = (prefix: number): string => `range${prefix}`
/** A lookup is by exact key, so a range of prefix 0 is kept as its halves. */
export const RANGE_PREFIXES = Array.from({ length: 31 }, (_, index) => index + 1)

const list = (ranges: readonly Cidr[]): string => ranges.map(formatCidr).join(', ')

/**
 * The rules of a node, for nft(8): loaded once. What differs between sandboxes is in sets, keyed by link or by address,
 * so a change of policy is a change of a few elements and costs the same however many sandboxes there are.
 *
 * What a sandbox sends is judged in `prerouting`, by the destination that it asked for, before anything else on the host
 * may change it. Connections that were let through go on; `cut` of the networks program ends those that a new policy
 * does not let through. Nothing reaches a sandbox that is not an answer.
 */
export const ruleset = ({ table, prefix, block, udpPort, tcpPort }: RulesetOptions): string => {
  const links = `"${prefix}*"`
  const resolver = formatAddress(block.base + 1)
  const rate = `${bytesPerSecond(DEFAULT_BANDWIDTH_MBIT)} bytes/second burst ${burstBytes(DEFAULT_BANDWIDTH_MBIT)} bytes`
  return `table inet ${table} {
}
flush table inet ${table}
table inet ${table} {
  set links { type ifname . ipv4_addr; }
  set upload { type ifname; limit rate over ${rate}; }
  set download { type ifname; limit rate over ${rate}; }
  set queries { type ifname; limit rate over ${QUERIES}; }
  set openings { type ifname; limit rate over ${OPENINGS}; }
  set connections { type ifname; ct count over ${DEFAULT_CONNECTIONS}
  }
  set sent { type ifname; counter
  }
  set received { type ifname; counter
  }
  set egress { type ipv4_addr; }
  set named { type ipv4_addr . ipv4_addr; }
  set pinned { type ipv4_addr . ipv4_addr; }
  set ranged { type ipv4_addr; }
  ${RANGE_PREFIXES.map((length) => `set ${rangeSet(length)} { type ipv4_addr . ipv4_addr; }`).join('\n  ')}
  set never { type ipv4_addr; flags interval; elements = { ${list(NEVER)} }
  }
  set reserved { type ipv4_addr; flags interval; elements = { ${list(RESERVED)} }
  }
  chain ask {
    iifname @queries drop
    ct state new iifname @connections drop
    accept
  }
  chain connect {
    meta l4proto != { tcp, udp, icmp } drop
    icmp type != echo-request drop
    iifname @openings drop
    iifname @connections drop
    accept
  }
  chain ranges {
    ${RANGE_PREFIXES.map((length) => `ip saddr . ip daddr & ${formatAddress(maskOf(length))} @${rangeSet(length)} goto connect`).join('\n    ')}
  }
  chain from_sandbox {
    meta nfproto != ipv4 drop
    iifname . ip saddr != @links drop
    iifname @upload drop
    ip daddr ${resolver} meta l4proto { tcp, udp } th dport 53 goto ask
    ct state invalid drop
    ct state established,related accept
    ip saddr . ip daddr @named goto connect
    fib daddr type != unicast drop
    ip daddr @never drop
    ip saddr @ranged jump ranges
    ip saddr . ip daddr @pinned goto connect
    ip saddr @egress ip daddr != @reserved goto connect
    drop
  }
  chain to_sandbox {
    meta nfproto != ipv4 drop
    ct state != { established, related } drop
    oifname . ip daddr != @links drop
    oifname @download drop
  }
  chain prerouting {
    type filter hook prerouting priority mangle; policy accept;
    iifname ${links} goto from_sandbox
  }
  chain resolve {
    type nat hook prerouting priority dstnat - 1; policy accept;
    iifname ${links} ip daddr ${resolver} udp dport 53 dnat ip to ${resolver}:${udpPort}
    iifname ${links} ip daddr ${resolver} tcp dport 53 dnat ip to ${resolver}:${tcpPort}
  }
  chain input {
    type filter hook input priority filter - 1; policy accept;
    iifname ${links} ct state new ip daddr != ${resolver} ip saddr . ip daddr != @named drop
  }
  chain forward {
    type filter hook forward priority filter - 1; policy accept;
    iifname ${links} oifname ${links} drop
    iifname ${links} ip saddr @egress ip daddr @reserved drop
    oifname ${links} jump to_sandbox
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname ${links} jump to_sandbox
  }
  chain account {
    type filter hook forward priority filter + 10; policy accept;
    iifname ${links} iifname @sent
    oifname ${links} oifname @received
  }
  chain leave {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${formatCidr(block)} oifname != ${links} masquerade
  }
}
`
}
