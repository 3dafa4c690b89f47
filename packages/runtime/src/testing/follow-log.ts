import type { LogEntry } from '../agent/agent.ts'
import type { Sandbox } from '../runtime.ts'

/** What a sandbox's log says, over any number of connections to it. */
export interface FollowedLog {
  /** Each entry once, in order; a number that comes again has to be the same entry. */
  readonly entries: readonly LogEntry[]
  /** The output of one named command. */
  text(name: string): string
  /** Resolves when `condition` holds; asked after each entry. */
  until(condition: () => boolean): Promise<void>
  /** Follows another sandbox that has the same log, or the same one after it was attached to. */
  goOn(sandbox: Pick<Sandbox, 'agent'>): void
}

const plain = (entry: LogEntry): string =>
  JSON.stringify(entry, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))

/** Reads the log of `sandbox`, and acknowledges each entry. Throws from `until` what does not add up. */
export const followLog = (sandbox: Pick<Sandbox, 'agent'>): FollowedLog => {
  const entries: LogEntry[] = []
  const waiting = new Set<() => void>()
  let failure: Error | undefined

  const take = (agent: Sandbox['agent'], entry: LogEntry): void => {
    const first = entries[0]?.seq ?? entry.seq
    const there = entries[entry.seq - first]
    if (there && plain(there) !== plain(entry)) failure = new Error(`${plain(entry)} was ${plain(there)}`)
    else if (!there && entry.seq !== first + entries.length)
      failure = new Error(`the entry ${entry.seq} came after ${first + entries.length - 1}`)
    else if (!there) entries.push(entry)
    agent.log.acknowledge(entry.seq)
    for (const ask of [...waiting]) ask()
  }
  const goOn = ({ agent }: Pick<Sandbox, 'agent'>): void => {
    agent.log.read((entry) => take(agent, entry))
    void agent.closed.then((error) => {
      if (error) failure = error
      for (const ask of [...waiting]) ask()
    })
  }
  goOn(sandbox)
  return {
    entries,
    goOn,
    text: (name) =>
      entries
        .flatMap((entry) =>
          'event' in entry && entry.name === name && (entry.event.type === 'stdout' || entry.event.type === 'stderr')
            ? [entry.event.data.toString()]
            : [],
        )
        .join(''),
    until: (condition) =>
      new Promise((resolve, reject) => {
        const ask = (): void => {
          if (failure) reject(failure)
          else if (condition()) resolve()
          else return
          waiting.delete(ask)
        }
        waiting.add(ask)
        ask()
      }),
  }
}
