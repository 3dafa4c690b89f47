import { once } from 'node:events'
import { bytesOfHex, helloDigest, type Identity } from '@bramble/identity'
import { type FrameCodec, frameCodec } from '@bramble/identity/node'
import {
  type Challenge,
  type CoordinatorFrame,
  challengeSchema,
  coordinatorFrameSchema,
  type Hello,
  type LeaseRef,
  type Welcome,
  type WorkerFrame,
  welcomeSchema,
} from '@bramble/protocol'
import { WebSocket } from 'ws'
import { nodeReport, testIdentity } from '../../testing/test-network.ts'

/** A worker byte by byte, for tests that break the protocol's rules as well as for those that keep them. */
export interface SocketWorker extends AsyncDisposable {
  readonly socket: WebSocket
  readonly challenge: Challenge
  readonly welcome: Welcome
  readonly codec: FrameCodec
  /** Everything that came after the welcome, in order. */
  readonly frames: CoordinatorFrame[]
  send(frame: WorkerFrame): void
  /** The next frame of that type that nobody took yet. */
  next<T extends CoordinatorFrame['type']>(type: T): Promise<Extract<CoordinatorFrame, { type: T }>>
  /** Resolves when the connection is over. */
  readonly closed: Promise<number>
}

export interface SocketOptions {
  readonly running?: readonly LeaseRef[]
  readonly machine?: string
  /** Changes the hello after it was signed. */
  readonly tamper?: (hello: Hello) => unknown
}

export const dial = async (url: string, node: string): Promise<{ socket: WebSocket; challenge: Challenge }> => {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/api/v1/nodes/${node}/session`, {
    perMessageDeflate: false,
  })
  const [data] = await once(socket, 'message')
  return { socket, challenge: challengeSchema.parse(JSON.parse(String(data))) }
}

export const signedHello = (identity: Identity, challenge: Challenge, options: SocketOptions = {}) => {
  const session = testIdentity()
  const said: Omit<Hello, 'signature'> = {
    ...{ type: 'hello', version: 1, node: identity.id, sessionKey: session.publicKey },
    running: [...(options.running ?? [])],
    report: nodeReport({ machine: options.machine ?? identity.id.slice(2, 20) }),
  }
  const hello: Hello = { ...said, signature: identity.sign(helloDigest(challenge, said)) }
  const key = session.sessionKey(challenge.publicKey, bytesOfHex(challenge.nonce, 32))
  return { hello: options.tamper?.(hello) ?? hello, codec: frameCodec({ key, side: 'worker' }) }
}

export const connectWorker = async (
  url: string,
  identity: Identity,
  options: SocketOptions = {},
): Promise<SocketWorker> => {
  const { socket, challenge } = await dial(url, identity.id)
  const closed = once(socket, 'close').then(([code]) => Number(code))
  const { hello, codec } = signedHello(identity, challenge, options)
  socket.send(JSON.stringify(hello))
  const [data] = await once(socket, 'message')
  const welcome = welcomeSchema.parse(JSON.parse(String(data)))
  const frames: CoordinatorFrame[] = []
  const waiting: CoordinatorFrame[] = []
  let wake = Promise.withResolvers<void>()
  socket.on('message', (message: Buffer) => {
    const frame = coordinatorFrameSchema.parse(JSON.parse(codec.open(message.toString())))
    frames.push(frame)
    waiting.push(frame)
    wake.resolve()
    wake = Promise.withResolvers()
  })
  closed.then(() => wake.resolve())
  return {
    ...{ socket, challenge, welcome, codec, frames, closed },
    send: (frame) => socket.send(codec.seal(JSON.stringify(frame))),
    next: async (type) => {
      for (;;) {
        const at = waiting.findIndex((frame) => frame.type === type)
        if (at >= 0) return waiting.splice(at, 1)[0] as never
        if (socket.readyState === WebSocket.CLOSED) throw new Error(`the connection ended without a ${type}`)
        await wake.promise
      }
    },
    [Symbol.asyncDispose]: async () => {
      socket.terminate()
      await closed
    },
  }
}
