import { hash, randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { memoryStore as memoryBlobs } from '@bramble/blobs'
import { type Identity, requestDigest } from '@bramble/identity'
import { type NodeReport, type Problem, problemSchema } from '@bramble/protocol'
import type { NetworkConfig } from '../../network/config.ts'
import { type Coordinator, type CoordinatorOptions, openCoordinator } from '../../open-coordinator.ts'
import { nodeReport, openTestNetwork, type TestNetwork, testIdentity } from '../../testing/test-network.ts'

/** A whole coordinator on a free port: the real front before the real writer, with stores in memory. */
export interface TestFront extends TestNetwork, AsyncDisposable {
  readonly coordinator: Coordinator
  /** With the scope `admin`. */
  readonly key: string
  /** Sends `json` as a request of that key, or of the admin. */
  fetch(path: string, options?: FetchOptions): Promise<Response>
  /** A request that a node signs; `tamper` changes what is sent after it was signed. */
  signed(identity: Identity, path: string, options?: SignedOptions): Promise<Response>
  /** Registers a node by an invite of the network. */
  join(options?: JoinOptions): Promise<Identity>
}

export interface FetchOptions extends RequestInit {
  readonly json?: unknown
  /** `null`: none. */
  readonly key?: string | null
}

export interface SignedOptions {
  readonly method?: string
  readonly json?: unknown
  readonly body?: Uint8Array
  readonly timestampMs?: number
  readonly nonce?: string
  readonly tamper?: (request: { path: string; body: string | Uint8Array | undefined; headers: Headers }) => {
    path?: string
    body?: string
  }
}

export interface JoinOptions {
  readonly identity?: Identity
  readonly owner?: string
  /** Established from the start. Default false. */
  readonly anchor?: boolean
  readonly report?: Partial<NodeReport>
}

export const openTestFront = async (
  options: Partial<CoordinatorOptions> & { readonly config?: Partial<NetworkConfig> } = {},
): Promise<TestFront> => {
  const { config, ...more } = options
  await using undo = new AsyncDisposableStack()
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-front-'))
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }))
  // Nodes of one host are nodes of one subnet: tests of placement are elsewhere.
  const network = await openTestNetwork({ network: { distinct: ['owner', 'machine'], ...config } })
  undo.use(network.network)
  const blobs = undo.use(memoryBlobs())
  const coordinator = await openCoordinator({
    ...{ network: network.network, store: network.store, blobs, identity: network.identity },
    ...{ networkId: network.config.network, dataDirectory, port: 0, version: '0.0.0' },
    ...more,
  })
  undo.defer(() => coordinator.close({ graceMs: 0 }))
  const key = coordinator.adminKey ?? ''
  let machines = 0

  const front: Omit<TestFront, keyof AsyncDisposable> = {
    ...network,
    coordinator,
    key,
    fetch: (path, { json, key: other = key, headers, ...init } = {}) =>
      fetch(`${coordinator.url}${path}`, {
        ...(json !== undefined && { method: 'POST', body: JSON.stringify(json) }),
        ...init,
        headers: {
          ...(json !== undefined && { 'content-type': 'application/json' }),
          ...(other !== null && { authorization: `Bearer ${other}` }),
          ...(headers as Record<string, string>),
        },
      }),
    signed: async (identity, path, request = {}) => {
      const { json, timestampMs = Date.now(), nonce = randomBytes(16).toString('hex'), tamper } = request
      const body = json === undefined ? request.body : JSON.stringify(json)
      const method = request.method ?? (body === undefined ? 'GET' : 'POST')
      const bodySha256 = hash('sha256', body ?? '', 'hex')
      const headers = new Headers({
        'bramble-node': identity.id,
        'bramble-timestamp': String(timestampMs),
        'bramble-nonce': nonce,
        'bramble-signature': identity.sign(requestDigest({ method, path, bodySha256, timestampMs, nonce })),
        ...(json !== undefined && { 'content-type': 'application/json' }),
      })
      const sent = { path, body, ...tamper?.({ path, body, headers }) }
      const bytes = sent.body === undefined ? null : Buffer.from(sent.body)
      return fetch(`${coordinator.url}${sent.path}`, { method, headers, body: bytes })
    },
    join: async ({ identity = testIdentity(), owner, anchor = false, report } = {}) => {
      const number = ++machines
      const { token } = await network.network.nodes.invite({
        ...{ owner: owner ?? `owner-${number}`, anchor, labels: {}, ttlMs: 60_000, maxNodes: 1 },
      })
      const json = {
        ...{ node: identity.id, publicKey: identity.publicKey, token },
        report: nodeReport({ machine: `machine-${number}`, ...report }),
      }
      const response = await front.signed(identity, '/api/v1/nodes/register', { json })
      if (!response.ok) throw new Error(await response.text())
      return identity
    },
  }
  const held = undo.move()
  return { ...front, [Symbol.asyncDispose]: () => held.disposeAsync() }
}

export const problemOf = async (response: Response): Promise<Problem> => {
  const text = await response.text()
  return problemSchema.parse(JSON.parse(text))
}
