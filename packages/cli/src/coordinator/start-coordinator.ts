import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { openStore } from '@bramble/blobs'
import {
  type Coordinator,
  createFrontMetrics,
  DEFAULT_NETWORK,
  type FrontMetrics,
  type LeadershipEvent,
  type Network,
  openCoordinator,
  openNetworkHere,
  openWriter,
  type Store,
  timedStore,
} from '@bramble/coordinator'
import { postgresStore, sqliteStore } from '@bramble/coordinator/store'
import { hostInUrl } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import type { Logger } from 'pino'
import { adminKeyFile } from '../data-directory.ts'
import { lockDataDirectory } from '../node/data-directory-lock.ts'
import { removeNodeFile, writeNodeFile } from '../node/node-file.ts'
import { version } from '../version.ts'
import { type CoordinatorConfig, usesPostgres } from './coordinator-config.ts'
import { loadNetworkKey, type NetworkKey } from './network-key.ts'

export interface RunningCoordinator extends AsyncDisposable {
  readonly url: string
  /** The admin key of the data directory, where there is one. */
  readonly adminKey: string | undefined
  readonly networkId: string
  readonly network: Network
  /** Whether this one writes at the moment. */
  readonly leads: boolean
  /** Sends workers elsewhere, waits for what is under way, gives the writer's lease up. */
  close(): Promise<void>
}

/** The first start of a cluster may wait for its database's other users. */
const READY_MS = 30_000
const GB = 1_000_000_000

/**
 * Assembles one coordinator: its store, its place among the others, blobs, and the front before them. One per data directory: a second
 * one throws `conflict`, as does a database of another network. A start that fails leaves nothing behind.
 */
export const startCoordinator = async (config: CoordinatorConfig, log: Logger): Promise<RunningCoordinator> => {
  const { dataDirectory, host, port } = config
  await using undo = new AsyncDisposableStack()
  undo.use(lockDataDirectory(dataDirectory))
  const key = await loadNetworkKey(config)
  const metrics = createFrontMetrics({ version: version() })
  const bare = undo.use(await openDatabase(config))
  const store = timedStore(bare, metrics)
  const isKnown = await isOwn(store, key)
  const blobs = undo.use(
    await openStore({
      directory: join(dataDirectory, 'blobs'),
      objectStoreUrl: config.objectStoreUrl,
      maxBytes: config.storeMaxGb === undefined ? undefined : Math.round(config.storeMaxGb * GB),
      log,
    }),
  )
  const network = openNetwork(config, key, store, log)
  undo.defer(() => network.close())
  await network.ready(READY_MS)
  const coordinator = await listenOn(config, key, { network, store, blobs, metrics, log })
  undo.defer(() => coordinator.close({ graceMs: 0 }))
  if (!isKnown) await network.putDocument('network', 'self', ownDocument(key))
  undo.defer(() => removeNodeFile(dataDirectory))
  writeNodeFile(dataDirectory, { url: coordinator.url, startedAt: new Date().toISOString() })
  const adminKey = config.adminKey ?? (await readAdminKey(dataDirectory))
  log.info({ url: coordinator.url, host, port, network: key.networkId }, 'the coordinator takes requests')
  const held = undo.move()

  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    await coordinator.close({ graceMs: config.shutdownGraceMs })
    await held.disposeAsync()
  }
  const close = (): Promise<void> => {
    closed ??= closeOnce()
    return closed
  }
  return {
    url: coordinator.url,
    adminKey,
    networkId: key.networkId,
    network,
    get leads() {
      return network.leads
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const openDatabase = (config: CoordinatorConfig): Promise<Store> =>
  usesPostgres(config) ? postgresStore({ url: config.database }) : sqliteStore({ path: config.database })

const ownDocument = ({ identity, networkId }: NetworkKey) => ({ network: networkId, publicKey: identity.publicKey })

/** False: the database is new. A coordinator with another secret would be another network on the same nodes and jobs. */
const isOwn = async (store: Store, key: NetworkKey): Promise<boolean> => {
  const known = (await store.document('network', 'self')) as ReturnType<typeof ownDocument> | undefined
  if (known === undefined) return false
  if (known.publicKey === key.identity.publicKey) return true
  throw new BrambleError('conflict', {
    detail: `the database is of the network ${known.network}, and the secret here makes ${key.networkId}`,
  })
}

const openNetwork = (config: CoordinatorConfig, key: NetworkKey, store: Store, log: Logger) => {
  const { host, port, advertiseUrl, redisUrl, shareMachines, open, grantCredits, failoverMs, snapshotEveryMs } = config
  const { identity, networkId, auditKey, linkSecret } = key
  return openNetworkHere({
    store,
    name: `${hostname()}-${randomBytes(3).toString('hex')}`,
    url: advertiseUrl ?? `http://${hostInUrl(host)}:${port}`,
    secret: linkSecret,
    redisUrl,
    openWriter: ({ epoch, onFail }) =>
      openWriter({
        ...{ store, epoch, identity, auditKey, onFail },
        config: {
          ...DEFAULT_NETWORK,
          ...{ network: networkId, version: version(), join: open ? 'open' : 'invite' },
          ...(shareMachines && { distinct: [] }),
          ...(grantCredits !== undefined && { grantCredits }),
          routing: {
            ...(failoverMs !== undefined && { failoverMs }),
            ...(snapshotEveryMs !== undefined && { snapshotEveryMs }),
          },
        },
      }),
    log: (event) => tell(log, event),
  })
}

const tell = (log: Logger, event: LeadershipEvent): void => {
  const { type, ...data } = event
  switch (event.type) {
    case 'leads':
    case 'led':
    case 'follows':
      log.info(data, MESSAGES[event.type])
      break
    case 'trouble':
      log.warn({ doing: event.doing, err: event.error }, MESSAGES[type])
      break
    default:
      event satisfies never
  }
}

const MESSAGES: Readonly<Record<LeadershipEvent['type'], string>> = {
  leads: 'this coordinator writes',
  led: 'this coordinator does not write any more',
  follows: 'another coordinator writes',
  trouble: 'trouble among coordinators',
}

interface Parts {
  readonly network: ReturnType<typeof openNetworkHere>
  readonly store: Store
  readonly blobs: Awaited<ReturnType<typeof openStore>>
  readonly metrics: FrontMetrics
  readonly log: Logger
}

const listenOn = (
  config: CoordinatorConfig,
  { identity, networkId }: NetworkKey,
  { network, store, blobs, metrics, log }: Parts,
): Promise<Coordinator> => {
  const { dataDirectory, host, port, adminKey, corsOrigins, trustedProxies } = config
  return openCoordinator({
    ...{ network, store, blobs, identity, networkId, metrics, logger: log, version: version() },
    ...{ dataDirectory, host, port, adminKey, corsOrigins, trustedProxies },
    upgrades: [network.handleLink],
    beforeStop: () => network.close(),
  })
}

const readAdminKey = async (dataDirectory: string): Promise<string | undefined> =>
  (await readFile(adminKeyFile(dataDirectory), 'utf8').catch(() => '')).trim() || undefined
