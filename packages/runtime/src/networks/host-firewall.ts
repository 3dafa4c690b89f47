import { type Command, findProgram } from './command.ts'

/**
 * Where the host filters by iptables (Docker does, and sets FORWARD to DROP; so do ufw and libvirt), what another table
 * lets through is dropped there all the same. These rules say that the links of this node are judged in its own table.
 * They stand first in each chain and let nothing through that the own table has not let through before.
 */
const rulesOf = (prefix: string): string[][] => {
  const comment = ['-m', 'comment', '--comment', `bramble ${prefix}`]
  return [
    ['FORWARD', '-i', `${prefix}+`, ...comment, '-j', 'ACCEPT'],
    ['FORWARD', '-o', `${prefix}+`, ...comment, '-j', 'ACCEPT'],
    ['INPUT', '-i', `${prefix}+`, ...comment, '-j', 'ACCEPT'],
  ]
}

/** Whether the chain lets everything through by itself. */
const isOpen = (listing: string, chain: string): boolean =>
  listing
    .split('\n')
    .every((line) => line === '' || line === `-P ${chain} ACCEPT` || line.includes('--comment "bramble '))

/** Adds the rules where the host filters by iptables. Gives the chains that have them. */
export const openHostFirewall = async (command: Command, prefix: string): Promise<string[]> => {
  if (findProgram('iptables') === undefined) return []
  const opened = new Set<string>()
  for (const [chain = '', ...rule] of rulesOf(prefix)) {
    const listing = await command('iptables', ['-w', '-S', chain]).catch(() => '')
    if (isOpen(listing, chain)) continue
    const there = await command('iptables', ['-w', '-C', chain, ...rule]).then(
      () => true,
      () => false,
    )
    if (!there) await command('iptables', ['-w', '-I', chain, ...rule])
    opened.add(chain)
  }
  return [...opened]
}

export const closeHostFirewall = async (command: Command, prefix: string): Promise<void> => {
  if (findProgram('iptables') === undefined) return
  for (const [chain = '', ...rule] of rulesOf(prefix))
    await command('iptables', ['-w', '-D', chain, ...rule]).catch(() => {})
}
