import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Bramble } from '@bramble/sdk'
import { hostProcesses } from '../leftovers.ts'
import { type Child, createChild } from './child.ts'
import { type Databases, openDatabases } from './databases.ts'
import { type Field, openField, type Place } from './place.ts'
import { type Balancer, openBalancer, openRelay, type Relay } from './relay.ts'

const MAIN = fileURLToPath(new URL('../../packages/cli/src/main.ts', import.meta.url))
const WORKER = fileURLToPath(new URL('worker-process.ts', import.meta.url))
const SKEW = fileURLToPath(new URL('skewed-clock.ts', import.meta.url))
const MAX_SKEW_MS = 5 * 60_000

export interface CoordinatorProcess extends Child {
  readonly name: string
  readonly place: Place
  /** Its way to PostgreSQL. */
  readonly database: Relay
  readonly skewMs: number
  /** By its log. */
  readonly writes: boolean
}

export interface WorkerProcess extends Child {
  readonly name: string
  readonly owner: string
  readonly place: Place
  readonly skewMs: number
  readonly honest: boolean
}

/** A whole network of real processes on one host. */
export interface ChaosNetwork extends AsyncDisposable {
  readonly directory: string
  readonly field: Field
  readonly databases: Databases
  readonly coordinators: readonly CoordinatorProcess[]
  readonly workers: readonly WorkerProcess[]
  readonly balancer: Balancer
  readonly apiKey: string
  client(): Bramble
  /** Processes that ended by themselves, and may not. */
  readonly fallen: readonly string[]
  /** Which processes of it there still are. */
  leftovers(): string[]
  /** Keeps its logs and data when it is closed. */
  keep(): void
}

export interface ChaosNetworkOptions {
  readonly coordinators: number
  readonly workers: number
  /** Of the workers, those that say something wrong now and then. */
  readonly liars: number
  readonly seed: number
  /** Called when a coordinator says that it writes. */
  readonly onWriter?: (name: string) => void
}

/** From the most behind to the most ahead. */
const skewOf = (number: number, count: number): number =>
  count < 2 ? 0 : Math.round(((2 * number) / (count - 1) - 1) * MAX_SKEW_MS)

export const openChaosNetwork = async (
  options: ChaosNetworkOptions,
): Promise<ChaosNetwork | { readonly skip: string }> => {
  await using undo = new AsyncDisposableStack()
  const directory = mkdtempSync(join(tmpdir(), 'bramble-chaos-'))
  let kept = false
  undo.defer(() => {
    if (!kept) rmSync(directory, { recursive: true, force: true })
  })
  const children: Child[] = []
  const fallen: string[] = []
  // Whatever ends the harness ends what it started.
  const orphan = (): void => {
    for (const child of children) child.signal('SIGKILL')
  }
  process.once('exit', orphan)
  undo.defer(() => void process.off('exit', orphan))
  const field = undo.use(await openField())
  const databases = await openDatabases(field, directory, (why) => fallen.push(`Redis: ${why}`))
  if ('skip' in databases) return databases
  undo.use(databases)
  children.push(databases.redis)
  const apiKey = 'bramble_the-administrator-of-chaos'
  const coordinators: (CoordinatorProcess & { readonly port: number })[] = []
  for (let number = 0; number < options.coordinators; number++) {
    const opened = await openCoordinatorProcess({ ...options, field, databases, directory, apiKey, number, fallen })
    undo.use(opened.database)
    undo.defer(() => opened.end('SIGKILL'))
    children.push(opened)
    coordinators.push(opened)
  }
  await Promise.all(coordinators.map((each) => each.start()))
  const backends = coordinators.map(({ place, port }) => ({ host: place.address, port }))
  const balancer = undo.use(await openBalancer(field.address, backends))
  const client = (): Bramble => new Bramble({ url: balancer.url, apiKey, retries: 8, requestTimeoutMs: 20_000 })
  const workers: WorkerProcess[] = []
  for (let number = 0; number < options.workers; number++) {
    const { url } = balancer
    const opened = await openWorkerProcess({ ...options, field, directory, url, client: client(), number, fallen })
    undo.defer(() => opened.end('SIGKILL'))
    children.push(opened)
    workers.push(opened)
  }
  await Promise.all(workers.map((each) => each.start()))
  const held = undo.move()
  return {
    ...{ directory, field, databases, coordinators, workers, balancer, apiKey, client, fallen },
    leftovers: () =>
      hostProcesses()
        .filter(({ command }) => command.includes(directory))
        .map(({ pid, command }) => `${pid}: ${command}`),
    keep: () => {
      kept = true
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
}

interface CoordinatorOptions extends ChaosNetworkOptions {
  readonly field: Field
  readonly databases: Databases
  readonly directory: string
  readonly apiKey: string
  readonly number: number
  readonly fallen: string[]
}

const openCoordinatorProcess = async (options: CoordinatorOptions) => {
  const { field, databases, directory, apiKey, number, coordinators } = options
  const name = `coordinator-${number + 1}`
  const place = await field.add()
  const port = await place.port()
  const database = await openRelay(field.address, { path: databases.socket })
  const url = new URL(databases.url)
  url.hostname = field.address
  url.port = String(database.port)
  url.search = ''
  const skewMs = skewOf(number, coordinators)
  let writes = false
  const child = createChild({
    place,
    program: process.execPath,
    args: [
      ...['--import', SKEW, MAIN, 'coordinator', '--json', '--host', place.address, '--port', String(port)],
      ...['--data-dir', join(directory, name)],
    ],
    env: {
      BRAMBLE_DATABASE_URL: url.href,
      BRAMBLE_REDIS_URL: databases.redisUrl,
      BRAMBLE_CLUSTER_SECRET: 'the secret of chaos, the same at all',
      BRAMBLE_ADMIN_KEY: apiKey,
      CHAOS_SKEW_MS: String(skewMs),
    },
    log: join(directory, `${name}.log`),
    ready: '"type":"ready"',
    onFallen: (why) => options.fallen.push(`${name}: ${why}`),
    onLine: (line) => {
      if (line.includes('"this coordinator writes"')) {
        writes = true
        options.onWriter?.(name)
      } else if (line.includes('does not write any more')) writes = false
    },
  })
  return {
    ...child,
    ...{ name, place, port, database, skewMs },
    get pid() {
      return child.pid
    },
    get up() {
      return child.up
    },
    get writes() {
      return writes && child.up
    },
    start: async () => {
      writes = false
      await child.start()
    },
  }
}

interface WorkerOptions extends ChaosNetworkOptions {
  readonly field: Field
  readonly directory: string
  readonly url: string
  readonly client: Bramble
  readonly number: number
  readonly fallen: string[]
}

const openWorkerProcess = async (options: WorkerOptions): Promise<WorkerProcess> => {
  const { field, directory, url, client, number, workers, liars, seed } = options
  const name = `worker-${number + 1}`
  const owner = `owner-${number + 1}`
  const honest = number >= liars
  const place = await field.add()
  const { token } = await client.network.invite({ owner })
  const settings = {
    ...{ url, token, keyFile: join(directory, `${name}.key`), machine: name, seed: seed + number },
    ...{ mostMs: 150, liesShare: honest ? 0 : 0.05 },
  }
  const skewMs = skewOf(number, workers)
  const child = createChild({
    place,
    program: process.execPath,
    args: ['--import', SKEW, WORKER, JSON.stringify(settings)],
    env: { CHAOS_SKEW_MS: String(skewMs) },
    log: join(directory, `${name}.log`),
    ready: '"type":"begun"',
    // One that lied is sent away.
    onFallen: (why) => {
      if (honest) options.fallen.push(`${name}: ${why}`)
    },
  })
  return {
    ...child,
    ...{ name, owner, place, skewMs, honest },
    get pid() {
      return child.pid
    },
    get up() {
      return child.up
    },
  }
}
