import { join } from 'node:path'
import type { Engine } from '@bramble/engine'
import { createIdentity, generateSecretKey } from '@bramble/identity'
import { loadIdentity, wasmCurve } from '@bramble/identity/node'
import type { Labels, NodeId, NodeReport } from '@bramble/protocol'
import { type NetworkInstances, openNetworkInstances } from '../instances/network-instances.ts'
import { imagesOf, measureNode } from '../report/measure-node.ts'
import { filePin, type JoinedNetwork } from '../session/file-pin.ts'
import { networkClock } from '../session/network-clock.ts'
import { openSession } from '../session/open-session.ts'
import type { CloseOptions, Execute, Session, SessionEvent, SessionOptions } from '../session/session.ts'
import { signedRequests } from '../session/signed-requests.ts'
import { leaseRunner } from './run-lease.ts'
import { workerBlobs } from './worker-blobs.ts'

/** No key is of it: its name has what no tenant's name may have. */
const NETWORK_TENANT = 'bramble.network'
/** What the node has is looked at again so often. */
const REPORT_EVERY_MS = 60_000

export interface WorkerOptions {
  /** Of the coordinator, or of what stands before several. */
  readonly url: string
  /** Of an invite; needed when the node joins, and not again. */
  readonly token?: string | undefined
  readonly engine: Engine
  /** Keeps the node's key (`node.key`), whose network it joined (`network.json`), and which instances are that network's. */
  readonly dataDirectory: string
  readonly version: string
  readonly name?: string | undefined
  /** Executions at once. Default two a processor. */
  readonly slots?: number | undefined
  readonly region?: string | undefined
  readonly labels?: Labels | undefined
  /** Where the node's gateway is reached, for users that the network sends there. */
  readonly gatewayUrl?: string | undefined
  readonly transport?: SessionOptions['transport']
  /** What the coordinator may ask beside executions. */
  readonly requests?: SessionOptions['requests']
  readonly onEvent?: (event: SessionEvent) => void
  /** Instead of running leases by the engine, or around it. */
  readonly wrap?: (execute: Execute) => Execute
}

/** A node of a network. */
export interface Worker extends AsyncDisposable {
  readonly node: NodeId
  readonly publicKey: string
  readonly report: NodeReport
  readonly session: Session
  /** Which network this node joined, and its key; undefined before the first contact. */
  readonly network: JoinedNetwork | undefined
  /** Milliseconds since 1970, as the network counts them. */
  now(): number
  /** What the network placed here beside executions. */
  readonly instances: Pick<NetworkInstances, 'allows'>
  /** Drains: `graceMs` for what runs, then tells of the rest that it failed. The engine stays the caller's. */
  close(options?: CloseOptions): Promise<void>
}

/**
 * Makes this node one of a network: measures it, makes its key at the first start, registers, and takes leases from then on.
 * Resolves when the worker has what it needs of this host; `session.ready` says that the coordinator took it.
 */
export const openWorker = async (options: WorkerOptions): Promise<Worker> => {
  const { url, token, engine, dataDirectory, name, onEvent, transport } = options
  const identity = await loadIdentity(join(dataDirectory, 'node.key'))
  const pin = filePin(join(dataDirectory, 'network.json'))
  const clock = networkClock()
  const requests = signedRequests(url, identity, clock)
  const tenant = NETWORK_TENANT
  await using undo = new AsyncDisposableStack()
  const path = join(dataDirectory, 'network-instances.db')
  const instances = undo.use(await openNetworkInstances({ engine, path, network: () => pin.known?.network }))
  let report = await measureNode({ ...options, tenant, url: options.gatewayUrl })

  const register = async (signal: AbortSignal): Promise<void> => {
    const { id: node, publicKey } = identity
    const json = { node, publicKey, report, ...(token !== undefined && { token }), ...(name !== undefined && { name }) }
    await requests.json({ method: 'POST', path: 'nodes/register', json, signal })
  }
  const blobs = workerBlobs({ engine, requests, tenant })
  const byEngine = leaseRunner({ engine, identity, blobs, tenant, clock })
  const session = openSession({
    ...{ url, identity, report, pin, clock, register },
    execute: options.wrap?.(byEngine) ?? byEngine,
    ephemeral: () => createIdentity(generateSecretKey(), wasmCurve()),
    ...(transport && { transport }),
    requests: { ...instances.requests, ...options.requests },
    onEvent: (event) => {
      if (event.type === 'open' || event.type === 'away') instances.connected(event.type === 'open')
      onEvent?.(event)
    },
  })
  const held = undo.move()

  /** Images come and go; the rest was measured. */
  const look = (): void => {
    const images = imagesOf(engine)
    if (JSON.stringify(images) === JSON.stringify(report.images)) return
    report = { ...report, images }
    session.report(report)
  }
  const looking = setInterval(look, REPORT_EVERY_MS).unref()
  const close: Worker['close'] = async (closing) => {
    clearInterval(looking)
    await session.close(closing)
    await held.disposeAsync()
  }
  return {
    node: identity.id,
    publicKey: identity.publicKey,
    get report() {
      return report
    },
    get network() {
      return pin.known
    },
    now: () => clock.now(),
    ...{ session, instances, close },
    [Symbol.asyncDispose]: () => close(),
  }
}
