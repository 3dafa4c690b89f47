import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket, type Server as TcpServer } from 'node:net'
import type { Answer } from 'dns-packet'
import { formatAddress, parseAddress } from './addresses.ts'
import {
  isAddress,
  isPassed,
  parseQuery,
  type Query,
  RCODES,
  type Rcode,
  rcodeOf,
  relevant,
  writeAnswer,
} from './answer.ts'
import { askUpstream, type Server } from './upstream.ts'

/** A sandbox, as the resolver sees it. */
export interface Asker {
  permits(name: string): boolean
  /**
   * Lets the sandbox through to those of the addresses that it may have under this name, for so long, and gives them.
   * Resolves when the kernel knows.
   */
  admit(name: string, addresses: readonly { address: number; ttlS: number }[]): Promise<ReadonlySet<number>>
}

export interface ResolverOptions {
  readonly address: string
  readonly servers: () => Promise<readonly Server[]>
  /** Whose query it is, by the address it came from, which the rules vouch for. */
  readonly askerAt: (address: string) => Asker | undefined
}

/** Answers names for sandboxes: only what their policy permits, and only addresses that it lets them have. */
export interface Resolver extends AsyncDisposable {
  readonly udpPort: number
  readonly tcpPort: number
  /** The addresses of a name, let through, for one sandbox. */
  lookUp(asker: Asker, name: string): Promise<string[]>
}

/** Queries that wait for an answer at once. */
const MAX_PENDING = 1024
const MAX_PENDING_EACH = 64
const MAX_CONNECTIONS = 1024
const MAX_CONNECTIONS_EACH = 8
const CONNECTION_IDLE_MS = 10_000
const MAX_QUERY_BYTES = 2048
const TTL_OF_NOTHING_S = 0

interface Found {
  readonly rcode: Rcode
  readonly answers: readonly Answer[]
}
const NOTHING: Found = { rcode: RCODES.NOERROR, answers: [] }

const find = async (options: ResolverOptions, asker: Asker, { name, question }: Query): Promise<Found> => {
  if (!asker.permits(name)) return { rcode: RCODES.NXDOMAIN, answers: [] }
  if (!isPassed(question.type)) return NOTHING
  // The name as it is compared: what a sandbox can say by upper and lower case stays here.
  const answer = await askUpstream(await options.servers(), { ...question, name })
  if (answer === undefined) return { rcode: RCODES.SERVFAIL, answers: [] }
  if (rcodeOf(answer) === RCODES.NXDOMAIN) return { rcode: RCODES.NXDOMAIN, answers: [] }
  if (rcodeOf(answer) !== RCODES.NOERROR) return { rcode: RCODES.SERVFAIL, answers: [] }
  const answers = relevant(answer, question.type)
  const asked = answers.filter(isAddress).flatMap(({ data, ttl }) => {
    const address = parseAddress(data)
    return address === undefined ? [] : [{ address, ttlS: ttl ?? TTL_OF_NOTHING_S }]
  })
  if (asked.length === 0) return { rcode: RCODES.NOERROR, answers: question.type === 'A' ? [] : answers }
  const admitted = await asker.admit(name, asked)
  const kept = answers.filter((each) => !isAddress(each) || admitted.has(parseAddress(each.data) ?? 0))
  return admitted.size === 0 ? NOTHING : { rcode: RCODES.NOERROR, answers: kept }
}

/** How many a sandbox has under way; the connections and queries of one leave room for those of others. */
const counter = (maxEach: number, max: number) => {
  const each = new Map<string, number>()
  let all = 0
  return {
    enter: (who: string): boolean => {
      const count = each.get(who) ?? 0
      if (count >= maxEach || all >= max) return false
      each.set(who, count + 1)
      all++
      return true
    },
    leave: (who: string): void => {
      const count = (each.get(who) ?? 1) - 1
      all--
      if (count > 0) each.set(who, count)
      else each.delete(who)
    },
  }
}

/** Opens on `address`, which must be one of the host; on ports that the kernel chooses. */
export const openResolver = async (options: ResolverOptions): Promise<Resolver> => {
  const pending = counter(MAX_PENDING_EACH, MAX_PENDING)
  const connections = counter(MAX_CONNECTIONS_EACH, MAX_CONNECTIONS)

  const answer = async (data: Buffer, from: string, transport: 'udp' | 'tcp'): Promise<Buffer | undefined> => {
    const asker = options.askerAt(from)
    if (asker === undefined || data.length > MAX_QUERY_BYTES || !pending.enter(from)) return undefined
    try {
      const query = parseQuery(data)
      if (query === undefined) return undefined
      if ('rcode' in query) return writeAnswer(query, query.rcode, [], transport)
      const found = await find(options, asker, query).catch(() => ({ rcode: RCODES.SERVFAIL, answers: [] }))
      return writeAnswer(query, found.rcode, found.answers, transport)
    } catch {
      // What an upstream sent may be nothing that can be written.
      return undefined
    } finally {
      pending.leave(from)
    }
  }

  const udp: UdpSocket = createSocket('udp4')
  udp.on('message', (data, from) => {
    void answer(data, from.address, 'udp').then((bytes) => {
      if (bytes) udp.send(bytes, from.port, from.address, () => {})
    })
  })
  const sockets = new Set<Socket>()
  const tcp: TcpServer = createServer((socket) => {
    const from = socket.remoteAddress ?? ''
    socket.on('error', () => {})
    if (options.askerAt(from) === undefined || !connections.enter(from)) return void socket.destroy()
    sockets.add(socket)
    socket.on('close', () => {
      sockets.delete(socket)
      connections.leave(from)
    })
    socket.setTimeout(CONNECTION_IDLE_MS, () => socket.destroy())
    void serveTcp(socket, (data) => answer(data, from, 'tcp')).catch(() => socket.destroy())
  })
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    await Promise.all([
      new Promise<void>((resolve) => (tcp.listening ? tcp.close(() => resolve()) : resolve())),
      new Promise<void>((resolve) => udp.close(() => resolve())),
    ])
  }
  udp.bind(0, options.address)
  tcp.listen(0, options.address)
  await Promise.all([once(udp, 'listening'), once(tcp, 'listening')])
  // Errors of single datagrams (ICMP of a sandbox that is gone) are nobody's concern.
  udp.on('error', () => {})
  tcp.on('error', () => {})
  let closing: Promise<void> | undefined
  return {
    udpPort: udp.address().port,
    tcpPort: (tcp.address() as AddressInfo).port,
    lookUp: async (asker, name) => {
      const question = { type: 'A', name, class: 'IN' } as const
      const { answers } = await find(options, asker, { id: 0, question, name, udpBytes: 0, edns: false })
      return answers.filter(isAddress).flatMap(({ data }) => {
        const address = parseAddress(data)
        return address === undefined ? [] : [formatAddress(address)]
      })
    },
    [Symbol.asyncDispose]: () => {
      closing ??= close()
      return closing
    },
  }
}

/** One query after another: each is two bytes of length, then the query (RFC 1035, 4.2.2). */
const serveTcp = async (socket: Socket, answer: (data: Buffer) => Promise<Buffer | undefined>): Promise<void> => {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 2 && rest.length >= rest.readUInt16BE(0) + 2) {
      const length = rest.readUInt16BE(0)
      const bytes = await answer(rest.subarray(2, length + 2))
      rest = rest.subarray(length + 2)
      if (bytes === undefined) return void socket.destroy()
      const prefix = Buffer.alloc(2)
      prefix.writeUInt16BE(bytes.length)
      if (!socket.write(Buffer.concat([prefix, bytes]))) await once(socket, 'drain')
    }
    if (rest.length > MAX_QUERY_BYTES + 2) return void socket.destroy()
  }
}
