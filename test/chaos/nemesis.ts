import type { Child } from './child.ts'
import type { ChaosNetwork, CoordinatorProcess, WorkerProcess } from './network.ts'
import { between, pick, type Random } from './random.ts'

/** Something goes wrong, and is mended by what it returns. Undefined: it cannot at the moment, or not on this host. */
type Fault = (network: ChaosNetwork, random: Random) => Promise<Mend> | undefined
type Mend = () => Promise<void>

const MAX_STARTS = 30

/** As whatever runs it in earnest does: a start that fails is tried again. */
const startAgain = async (child: Child): Promise<void> => {
  for (let starts = 1; !child.up; starts++)
    await child.start().catch((error: unknown) => {
      if (starts >= MAX_STARTS) throw error
    })
}

const killed = async (child: Child): Promise<Mend> => {
  await child.end('SIGKILL')
  return () => startAgain(child)
}

const stopped = async (child: Child): Promise<Mend> => {
  child.signal('SIGSTOP')
  return async () => child.signal('SIGCONT')
}

const cutOff = ({ place: { link } }: Pick<CoordinatorProcess, 'place'>, random: Random): Promise<Mend> | undefined =>
  link?.cut(pick(random, ['both', 'in', 'out'])).then(() => () => link.mend())

const someUp = <T extends Child>(random: Random, children: readonly T[]): T | undefined => {
  const up = children.filter((child) => child.up)
  return up.length > 0 ? pick(random, up) : undefined
}
const writer = ({ coordinators }: ChaosNetwork): CoordinatorProcess | undefined =>
  coordinators.find(({ writes }) => writes)

const on =
  <T>(
    find: (network: ChaosNetwork, random: Random) => T | undefined,
    act: (found: T, random: Random) => Promise<Mend> | undefined,
  ): Fault =>
  (network, random) => {
    const found = find(network, random)
    return found && act(found, random)
  }
const aCoordinator = ({ coordinators }: ChaosNetwork, random: Random) => someUp(random, coordinators)
const aWorker = ({ workers }: ChaosNetwork, random: Random): WorkerProcess | undefined => someUp(random, workers)

export const FAULTS = {
  'the writer killed': on(writer, killed),
  'a coordinator killed': on(aCoordinator, killed),
  'a worker killed': on(aWorker, killed),
  'PostgreSQL killed': async ({ databases }) => {
    await databases.killPostgres()
    return () => databases.startPostgres()
  },
  'Redis killed': ({ databases: { redis } }) => killed(redis),
  'the writer stands still': on(writer, stopped),
  'a worker stands still': on(aWorker, stopped),
  'a coordinator cut off': on(aCoordinator, cutOff),
  'the writer cut off': on(writer, cutOff),
  'a worker cut off': on(aWorker, cutOff),
  'the writer cut off from PostgreSQL': on(writer, async ({ database }, random) => {
    database.lose(pick(random, ['requests', 'answers', 'both']))
    return async () => database.lose('none')
  }),
} as const satisfies Record<string, Fault>

export type FaultName = keyof typeof FAULTS

export interface NemesisOptions {
  readonly random: Random
  readonly signal: AbortSignal
  /** How long a fault lasts, and how long nothing more happens after it. */
  readonly lastsMs: readonly [number, number]
  readonly pauseMs: readonly [number, number]
  readonly onFault: (names: readonly FaultName[]) => void
}

const TOGETHER_SHARE = 0.25

/** Makes things go wrong until `signal`: each kind once, in a random order, then any; now and then two together. All is mended in the end. */
export const plague = async (network: ChaosNetwork, options: NemesisOptions): Promise<Record<FaultName, number>> => {
  const { random, signal, lastsMs, pauseMs, onFault } = options
  const names = Object.keys(FAULTS) as FaultName[]
  const counts = Object.fromEntries(names.map((name) => [name, 0])) as Record<FaultName, number>
  const turns = names.map((name) => ({ name, at: random() })).sort((one, other) => one.at - other.at)
  const sleep = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      signal.addEventListener('abort', () => {
        clearTimeout(timer)
        resolve()
      })
      if (signal.aborted) resolve()
    })
  while (!signal.aborted) {
    const together = random() < TOGETHER_SHARE ? 2 : 1
    const chosen = new Set<FaultName>()
    for (let number = 0; number < together; number++) chosen.add(turns.shift()?.name ?? pick(random, names))
    const mends: Mend[] = []
    const happened: FaultName[] = []
    for (const name of chosen) {
      const mend = await FAULTS[name](network, random)
      if (mend === undefined) continue
      counts[name]++
      happened.push(name)
      mends.push(mend)
    }
    if (mends.length === 0) continue
    onFault(happened)
    await sleep(between(random, ...lastsMs))
    await Promise.all(mends.map((mend) => mend()))
    await sleep(between(random, ...pauseMs))
  }
  return counts
}
