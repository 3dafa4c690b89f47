import { hash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Coordinator,
  DEFAULT_NETWORK,
  type Network,
  openCoordinator,
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
  /** Told once where it cannot go on. */
  readonly onFail: (error: unknown) => void
}

export interface LocalCoordinator extends AsyncDisposable {
  readonly coordinator: Coordinator
  readonly network: Network
  readonly networkId: string
}

/** Nobody else can want it: the data directory is locked. It is short, for the one that a crash left. */
const WRITER_TTL_MS = 5000
const AUDIT = Buffer.from('bramble/audit/1')

/** The only coordinator of a network, on SQLite, whose nodes may share what they have to share on one host. */
export const openLocalCoordinator = async (options: LocalCoordinatorOptions): Promise<LocalCoordinator> => {
  const { config, directory, adminKey, log, onFail } = options
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await using undo = new AsyncDisposableStack()
  const identity = await loadIdentity(join(directory, 'network.key'))
  // Known to whoever has the key, and to nobody else.
  const auditKey = identity.sessionKey(identity.publicKey, AUDIT)
  const networkId = `0x${hash('sha256', identity.publicKey)}`
  const store = undo.use(await sqliteStore({ path: join(directory, 'network.db') }))
  const blobs = undo.use(await openNodeStore({ ...config, dataDirectory: directory }, { log, observe: undefined }))
  const claim = { name: 'local', url: 'http://127.0.0.1', ttlMs: WRITER_TTL_MS }
  let lease = await store.acquire(claim)
  for (; !lease.held; lease = await store.acquire(claim)) await delay(Math.min(lease.leftMs + 10, WRITER_TTL_MS))
  const { epoch } = lease
  undo.defer(() => store.release(epoch))
  const renewing = setInterval(() => {
    store.renew(epoch, WRITER_TTL_MS).catch(onFail)
  }, WRITER_TTL_MS / 4)
  undo.defer(() => clearInterval(renewing))
  const network = undo.use(
    await openWriter({
      ...{ store, epoch, identity, auditKey, onFail },
      config: { ...DEFAULT_NETWORK, network: networkId, version: version(), distinct: [] },
    }),
  )
  const { host, port } = config
  const coordinator = await openCoordinator({
    ...{ network, store, blobs, identity, networkId, adminKey, host, port, logger: log },
    ...{ dataDirectory: directory, version: version() },
  })
  undo.defer(() => coordinator.close({ graceMs: config.shutdownGraceMs }))
  const held = undo.move()
  return { coordinator, network, networkId, [Symbol.asyncDispose]: () => held.disposeAsync() }
}
