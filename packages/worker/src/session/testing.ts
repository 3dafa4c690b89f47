import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { bytesOfHex, createIdentity, generateSecretKey, helloDigest, verifySignature } from '@bramble/identity'
import { frameCodec, wasmCurve } from '@bramble/identity/node'
import {
  type CoordinatorFrame,
  type Hello,
  helloSchema,
  type JobResult,
  type Lease,
  type LeaseRef,
  leaseSchema,
  type NodeReport,
  newId,
  type Welcome,
  type WorkerFrame,
  workerFrameSchema,
} from '@bramble/protocol'
import { type WebSocket, WebSocketServer } from 'ws'
import type { Outcome } from './session.ts'

/** A coordinator's end of sessions that says what a test tells it, in the real words and under the real codes. */

export const REPORT: NodeReport = {
  ...{ version: '0.0.0', cpus: 2, memoryMb: 1024, diskMb: 1024, slots: 4, gpus: [], isolation: ['container'] },
  ...{ labels: {}, images: [], speed: 100, machine: 'm', platform: 'test' },
}

export const testIdentity = () => createIdentity(generateSecretKey(), wasmCurve())

export const aLease = (more: Partial<Lease> = {}): Lease =>
  leaseSchema.parse({
    execution: newId('execution'),
    token: 1,
    job: newId('job'),
    spec: { command: ['true'] },
    leaseMs: 20_000,
    ...more,
  })

const EMPTY = { encoding: 'utf8', content: '', sizeBytes: 0, sha256: '0'.repeat(64) } as unknown as JobResult['stdout']

export const anOutcome = (more: Partial<Outcome> = {}): Outcome => ({
  result: { status: 'succeeded', exitCode: 0, stdout: EMPTY, stderr: EMPTY, truncated: false, outputs: {} },
  ...{ inputHash: '1'.repeat(64), resultHash: '2'.repeat(64), cpuMs: 1.5, peakMemoryBytes: 4096 },
  ...{ startedAtMs: 1000.4, finishedAtMs: 2000.6 },
  ...more,
})

export interface TestConnection {
  readonly hello: Hello
  /** The next frame of one of these types; others are passed over. */
  next<T extends WorkerFrame['type']>(...types: T[]): Promise<Extract<WorkerFrame, { type: T }>>
  /** Everything that came. */
  readonly frames: readonly WorkerFrame[]
  send(frame: CoordinatorFrame): void
  /** As an attacker on the way would. */
  sendRaw(text: string): void
  /** Without a word, as a cable that is pulled. */
  cut(): void
  readonly closed: Promise<void>
}

export interface TestCoordinator extends AsyncDisposable {
  readonly url: string
  readonly network: string
  readonly publicKey: string
  /** The next worker that said hello; it is welcomed with `keep` of what it holds. */
  accept(options?: { keep?: readonly LeaseRef[]; welcome?: Partial<Welcome> }): Promise<TestConnection>
  /** Answers upgrades with this status, until it is undefined again. */
  refuseWith(answer: { status: number; body: string } | undefined): void
  readonly refused: number
}

export const openTestCoordinator = async (): Promise<TestCoordinator> => {
  const identity = testIdentity()
  const network = `0x${'ab'.repeat(32)}`
  const http = createServer()
  const sockets = new WebSocketServer({ noServer: true })
  const waiting: { hello: Hello; socket: WebSocket; nonce: string }[] = []
  const acceptors: (() => void)[] = []
  let refusal: { status: number; body: string } | undefined
  let refused = 0

  const greet = (socket: WebSocket): void => {
    const nonce = `0x${Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString('hex')}`
    const challenge = { version: 1, nonce, network, publicKey: identity.publicKey, serverTimeMs: 1_700_000_000_000 }
    socket.on('error', () => {})
    socket.send(JSON.stringify({ type: 'challenge', ...challenge }))
    socket.once('message', (data) => {
      const hello = helloSchema.parse(JSON.parse(String(data)))
      waiting.push({ hello, socket, nonce })
      acceptors.shift()?.()
    })
  }
  http.on('upgrade', (request, socket, head) => {
    if (refusal === undefined) return sockets.handleUpgrade(request, socket, head, greet)
    refused++
    const { status, body } = refusal
    socket.end(
      `HTTP/1.1 ${status} No\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    )
  })
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')

  const accept: TestCoordinator['accept'] = async ({ keep, welcome } = {}) => {
    while (waiting.length === 0) await new Promise<void>((resolve) => acceptors.push(resolve))
    const { hello, socket, nonce } = waiting.shift() as (typeof waiting)[number]
    const digest = helloDigest({ nonce, network }, hello)
    if (!verifySignature(digest, hello.signature, workerKeys.get(hello.node) ?? '', wasmCurve()))
      throw new Error('the hello is not signed by its node')
    const codec = frameCodec({
      key: identity.sessionKey(hello.sessionKey, bytesOfHex(nonce, 32)),
      side: 'coordinator',
    })
    const frames: WorkerFrame[] = []
    const unseen: WorkerFrame[] = []
    const lookers = new Set<() => void>()
    socket.on('message', (data) => {
      const frame = workerFrameSchema.parse(JSON.parse(codec.open(String(data))))
      frames.push(frame)
      unseen.push(frame)
      for (const look of lookers) look()
    })
    const closed = once(socket, 'close').then(() => {})
    socket.send(
      JSON.stringify({
        ...{ type: 'welcome', session: 'ses', heartbeatMs: 60_000, leaseMs: 20_000, keep: keep ?? hello.running },
        ...welcome,
      }),
    )
    return {
      ...{ hello, frames, closed },
      next: (...types) =>
        new Promise((resolve) => {
          const look = (): void => {
            const at = unseen.findIndex(({ type }) => (types as string[]).includes(type))
            const [found] = at === -1 ? [] : unseen.splice(0, at + 1).slice(-1)
            if (found === undefined) return
            lookers.delete(look)
            resolve(found as never)
          }
          lookers.add(look)
          look()
        }),
      send: (frame) => socket.send(codec.seal(JSON.stringify(frame))),
      sendRaw: (text) => socket.send(text),
      cut: () => socket.terminate(),
    } satisfies TestConnection
  }

  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    ...{ network, publicKey: identity.publicKey, accept },
    refuseWith: (answer) => {
      refusal = answer
    },
    get refused() {
      return refused
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets.clients) socket.terminate()
      sockets.close()
      http.closeAllConnections()
      await new Promise((resolve) => http.close(resolve))
    },
  } satisfies TestCoordinator
}

/** Public keys of the nodes of a test, by id. */
export const workerKeys = new Map<string, string>()
