import type { Duplex } from 'node:stream'
import { handshakes, refuseUpgrade, type Upgrade, type UpgradeHandler } from '@bramble/http'
import { BrambleError, toBrambleError } from '@bramble/protocol'
import type { WebSocket } from 'ws'
import type { Network, WorkerSession } from '../network/network.ts'
import { invoke, isMethod } from './calls.ts'
import { type Channel, MAX_PAYLOAD_BYTES, openChannel } from './channel.ts'
import { challenge, LINK_PATH } from './handshake.ts'
import type { Answered, Asked } from './link-messages.ts'

export interface LinkServerOptions {
  readonly secret: Uint8Array
  /** The writer, while this coordinator is it. */
  readonly network: () => Network | undefined
  readonly onLinked?: (name: string) => void
}

/** Where other coordinators link to the one that writes. */
export interface LinkServer {
  readonly handle: UpgradeHandler
  /** Ends all links: this coordinator does not write any more. */
  drop(): void
}

const HELLO_MS = 5_000
/** What one that has not shown that it knows the secret may say: a whole message may be as large as a page of jobs. */
const MAX_HELLO_BYTES = 4096

export const openLinkServer = (options: LinkServerOptions): LinkServer => {
  const { secret, network, onLinked } = options
  const links = new Set<WebSocket>()
  const shake = handshakes({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: MAX_PAYLOAD_BYTES,
  })

  const begin = (ws: WebSocket, socket: Duplex, writer: Network): void => {
    links.add(ws)
    ws.once('close', () => links.delete(ws))
    ws.on('error', () => {})
    const timer = setTimeout(() => ws.terminate(), HELLO_MS)
    let bytes = 0
    const count = (data: Buffer): void => {
      bytes += data.length
      if (bytes > MAX_HELLO_BYTES) ws.terminate()
    }
    socket.on('data', count)
    const opened = (): void => {
      clearTimeout(timer)
      socket.off('data', count)
    }
    const challenged = challenge(secret)
    ws.once('close', opened)
    ws.once('message', (data) => {
      opened()
      try {
        const { name, text, key } = challenged.welcome(String(data))
        ws.send(text)
        serve(ws, key, writer)
        onLinked?.(name)
      } catch {
        ws.terminate()
      }
    })
    ws.send(challenged.text)
  }
  const connect = async (upgrade: Upgrade, writer: Network): Promise<void> => {
    const ws = await shake(upgrade)
    if (!ws) return
    if (network() === writer) begin(ws, upgrade.socket, writer)
    else ws.terminate()
  }

  return {
    handle: (upgrade) => {
      if (upgrade.path !== LINK_PATH) return false
      const writer = network()
      if (writer) void connect(upgrade, writer)
      else refuseUpgrade(upgrade, new BrambleError('not_leader', { detail: 'this coordinator does not write' }))
      return true
    },
    drop: () => {
      for (const ws of links) ws.close(1001)
    },
  }
}

/** Calls of one link under way at once: each coordinator bounds its own, far below this. */
const MAX_CALLS = 100_000

interface UnderWay {
  readonly ended: AbortController
  credit: number
  more: () => void
}

const serve = (ws: WebSocket, key: Uint8Array, network: Network): void => {
  const calls = new Map<number, UnderWay>()
  const sessions = new Map<number, Promise<WorkerSession>>()
  const channel: Channel<Answered> = openChannel<Asked, Answered>({
    ...{ ws, key, side: 'writer' },
    message: (asked) => take(asked),
    closed: () => {
      for (const { ended } of calls.values()) ended.abort()
      // That coordinator is gone; its workers are there, and find another.
      for (const session of sessions.values()) closeWhenOpen(session)
      sessions.clear()
    },
  })

  const answer = (id: number, work: (call: UnderWay) => Promise<unknown>, credit = 0): void => {
    const call: UnderWay = { ended: new AbortController(), credit, more: () => {} }
    calls.set(id, call)
    const working =
      calls.size > MAX_CALLS
        ? Promise.reject(new BrambleError('queue_full', { detail: `${MAX_CALLS} calls are under way on this link` }))
        : work(call)
    working
      .then(
        (value) => channel.send({ t: 'value', id, value }),
        (error: unknown) => channel.send({ t: 'error', id, error: toBrambleError(error).toProblem() }),
      )
      .finally(() => calls.delete(id))
  }

  const events = async (id: number, args: readonly unknown[], call: UnderWay): Promise<void> => {
    const [job, tenant, options] = args as Parameters<Network['jobs']['events']>
    call.ended.signal.addEventListener('abort', () => call.more(), { once: true })
    for await (const event of network.jobs.events(job, tenant, { ...options, signal: call.ended.signal })) {
      while (call.credit === 0 && !call.ended.signal.aborted)
        await new Promise<void>((resolve) => {
          call.more = resolve
        })
      if (call.ended.signal.aborted) return
      call.credit--
      channel.send({ t: 'item', id, event })
    }
  }

  const open = async ({ session, command }: Extract<Asked, { t: 'open' }>): Promise<unknown> => {
    const opening = network.session(command, (frame) => channel.send({ t: 'deliver', session, frame }))
    sessions.set(session, opening)
    try {
      return (await opening).welcome
    } catch (error) {
      sessions.delete(session)
      throw error
    }
  }

  const sessionOf = async (session: number): Promise<WorkerSession> => {
    const opening = sessions.get(session)
    if (opening) return opening
    throw new BrambleError('not_found', { detail: 'there is no such session on this link' })
  }

  const closeSession = ({ session, broken = false }: Extract<Asked, { t: 'close' }>): void => {
    const opening = sessions.get(session)
    sessions.delete(session)
    if (opening) closeWhenOpen(opening, { broken })
  }

  const take = (asked: Asked): void => {
    switch (asked.t) {
      case 'call':
        answer(asked.id, async ({ ended }) => {
          const { method, args } = asked
          if (!isMethod(method)) throw new BrambleError('unsupported', { detail: 'this version has no such method' })
          return invoke(network, method, args, ended.signal)
        })
        break
      case 'events':
        answer(asked.id, (call) => events(asked.id, asked.args, call), asked.credit)
        break
      case 'credit': {
        const call = calls.get(asked.id)
        if (call) call.credit += asked.more
        call?.more()
        break
      }
      case 'abort':
        calls.get(asked.id)?.ended.abort()
        break
      case 'open':
        answer(asked.id, () => open(asked))
        break
      case 'frame':
        answer(asked.id, async () => (await sessionOf(asked.session)).frame(asked.frame))
        break
      case 'close':
        closeSession(asked)
        break
      default:
        asked satisfies never
    }
  }
}

const closeWhenOpen = (opening: Promise<WorkerSession>, how?: { readonly broken: boolean }): void => {
  opening.then(
    (session) => session.close(how),
    () => {},
  )
}
