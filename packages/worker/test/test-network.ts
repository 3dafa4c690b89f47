import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { memoryStore } from '@bramble/blobs'
import {
  type Coordinator,
  DEFAULT_NETWORK,
  type Network,
  type NetworkConfig,
  openCoordinator,
  openWriter,
  sqliteStore,
} from '@bramble/coordinator'
import { createIdentity, generateSecretKey } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { Bramble } from '@bramble/sdk'
import { openWorker, type Worker, type WorkerOptions } from '../src/index.ts'
import { type FakeNode, openFakeNode } from './fake-node.ts'

export interface TestNetwork extends AsyncDisposable {
  readonly network: Network
  readonly coordinator: Coordinator
  readonly client: Bramble
  /** A node with an engine in memory, of an owner of its own; it has joined when this resolves. */
  join(options?: Partial<WorkerOptions>): Promise<{ node: FakeNode; worker: Worker }>
  /** The front ends and comes back on the same port, as in an upgrade; `between` is while nobody listens. */
  restartFront(between?: () => Promise<void>): Promise<void>
}

/** A coordinator on SQLite, and workers that reach it by HTTP and WebSocket, in one process. */
export const openTestNetwork = async (config: Partial<NetworkConfig> = {}): Promise<TestNetwork> => {
  await using undo = new AsyncDisposableStack()
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-network-'))
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }))
  const store = undo.use(await sqliteStore({ path: join(dataDirectory, 'network.db') }))
  const claim = await store.acquire({ name: 'test', url: 'http://127.0.0.1:1', ttlMs: 3_600_000 })
  if (!claim.held) throw new Error('someone else writes')
  const secret = generateSecretKey()
  const identity = createIdentity(secret, wasmCurve())
  const networkId = `0x${'42'.repeat(32)}`
  const version = '0.0.0'
  const network = undo.use(
    await openWriter({
      ...{ store, epoch: claim.epoch, identity, auditKey: secret },
      // All of them are on this machine.
      config: { ...DEFAULT_NETWORK, network: networkId, version, distinct: ['owner'], ...config },
    }),
  )
  const blobs = undo.use(memoryStore())
  let port = 0
  const openFront = () =>
    openCoordinator({ ...{ network, store, blobs, identity, networkId, dataDirectory, version, port } })
  let coordinator = await openFront()
  port = coordinator.port
  undo.defer(() => coordinator.close({ graceMs: 0 }))
  const client = new Bramble({ url: coordinator.url, apiKey: coordinator.adminKey })
  let owners = 0
  const held = undo.move()
  const joined = new AsyncDisposableStack()
  return {
    network,
    client,
    get coordinator() {
      return coordinator
    },
    async join(options = {}) {
      const node = joined.use(await openFakeNode())
      const invite = await network.nodes.invite({
        ...{ owner: `owner-${++owners}`, labels: {}, anchor: false, ttlMs: 60_000, maxNodes: 1 },
      })
      const { engine, dataDirectory: directory } = node
      const worker = await openWorker({
        ...{ url: coordinator.url, token: invite.token, engine, dataDirectory: directory, version, slots: 4 },
        ...options,
      })
      joined.defer(() => worker.close({ lastWordsMs: 0 }))
      await worker.session.ready
      return { node, worker }
    },
    async restartFront(between) {
      await coordinator.close({ graceMs: 0 })
      await between?.()
      coordinator = await openFront()
    },
    async [Symbol.asyncDispose]() {
      await joined.disposeAsync()
      await held.disposeAsync()
    },
  }
}
