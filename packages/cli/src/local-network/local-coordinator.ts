import { hash, randomBytes } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  type Coordinator,
  DEFAULT_NETWORK,
  type Network,
  openCoordinator,
  openNetworkHere,
  openWriter,
  sqliteStore,
} from '@bramble/coordinator'
import { loadIdentity } from '@bramble/identity/node'
import type { Logger } from 'pino'
import type { NodeConfig } from '../node/node-config.ts'
import { openNodeStore } from '../node/open-node-store.ts'
import { version } from '../version.ts'

export interface LocalCoordinatorOptions {
  /** Of the host: `dataDirectory`, address and port, object store. */
  readonly config: NodeConfig
  /** Its own part of the data directory. */
  readonly directory: string
  readonly adminKey: string
  readonly log: Logger
}

export interface LocalCoordinator extends AsyncDisposable {
  readonly coordinator: Coordinator
  readonly network: Network
  readonly networkId: string
}

/** For the writer that a crash left: nobody else can be one, since the data directory is locked. */
const WRITER_MS = 30_000
const AUDIT = Buffer.from('bramble/audit/1')

/** The only coordinator of a network, on SQLite, whose nodes may share what they have to share on one host. */
export const openLocalCoordinator = async (options: LocalCoordinatorOptions): Promise<LocalCoordinator> => {
  const { config, directory, adminKey, log } = options
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await using undo = new AsyncDisposableStack()
  const identity = await loadIdentity(join(directory, 'network.key'))
  // Known to whoever has the key, and to nobody else.
  const auditKey = identity.sessionKey(identity.publicKey, AUDIT)
  const networkId = `0x${hash('sha256', identity.publicKey)}`
  const store = undo.use(await sqliteStore({ path: join(directory, 'network.db') }))
  const blobs = undo.use(await openNodeStore({ ...config, dataDirectory: directory }, { log, observe: undefined }))
  const networkConfig = { ...DEFAULT_NETWORK, network: networkId, version: version(), distinct: [] }
  const network = undo.use(
    openNetworkHere({
      // Nobody links to the only one.
      ...{ store, name: 'local', url: 'http://127.0.0.1', secret: randomBytes(32) },
      openWriter: (lease) => openWriter({ ...lease, store, identity, auditKey, config: networkConfig }),
      log: (event) => log.info(event, 'leadership'),
    }),
  )
  await network.ready(WRITER_MS)
  const { host, port } = config
  const coordinator = await openCoordinator({
    ...{ network, store, blobs, identity, networkId, adminKey, host, port, logger: log },
    ...{ dataDirectory: directory, version: version() },
  })
  undo.defer(() => coordinator.close({ graceMs: config.shutdownGraceMs }))
  const held = undo.move()
  return { coordinator, network, networkId, [Symbol.asyncDispose]: () => held.disposeAsync() }
}
