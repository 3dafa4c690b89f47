import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { readFile } from 'node:fs/promises'
import { createConnection, isIP } from 'node:net'
import { type Answer, type DecodedPacket, decode, encode, type Question, RECURSION_DESIRED } from 'dns-packet'

/** Of one server, over UDP or TCP. */
const TIMEOUT_MS = 2500
const ROUNDS = 2
const MAX_SERVERS = 3
const RESOLV_CONF_TTL_MS = 5000
/** What a UDP answer may measure without being cut into fragments (DNS flag day 2020). */
export const UDP_PAYLOAD_BYTES = 1232

export interface Server {
  readonly address: string
  readonly port: number
}

/** `198.51.100.53`, or with a port: `127.0.0.1:5353`, `[::1]:5353`. */
export const parseServer = (text: string): Server | undefined => {
  const [, bracketed, plain, port] =
    /^(?:\[([^\]]+)\]|([^[\]]+?))(?::(\d+))?$/.exec(isIP(text) ? `[${text}]` : text) ?? []
  const address = bracketed ?? plain ?? ''
  return isIP(address) ? { address, port: Number(port ?? 53) } : undefined
}

/** The name servers of resolv.conf(5), read again now and then. */
export const resolvConf = (path = '/etc/resolv.conf'): (() => Promise<Server[]>) => {
  let read: { at: number; servers: Server[] } | undefined
  return async () => {
    if (read && performance.now() - read.at < RESOLV_CONF_TTL_MS) return read.servers
    const text = await readFile(path, 'utf8').catch(() => '')
    const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].flatMap(
      ([, address = '']) => parseServer(address) ?? [],
    )
    read = { at: performance.now(), servers: servers.slice(0, MAX_SERVERS) }
    return read.servers
  }
}

const sameQuestion = (one: Question | undefined, two: Question): boolean =>
  one?.name.toLowerCase() === two.name.toLowerCase() && one.type === two.type

/** An answer to this very question, or undefined: whoever guesses must guess port, id and question. */
const parseAnswer = (data: Buffer, id: number, question: Question): DecodedPacket | undefined => {
  try {
    const packet = decode(data)
    return packet.type === 'response' && packet.id === id && sameQuestion(packet.questions?.[0], question)
      ? packet
      : undefined
  } catch {
    return undefined
  }
}

/** EDNS (RFC 6891): how much we take. */
export const opt = (): Answer => ({
  type: 'OPT',
  name: '.',
  udpPayloadSize: UDP_PAYLOAD_BYTES,
  extendedRcode: 0,
  ednsVersion: 0,
  flags: 0,
  flag_do: false,
  options: [],
})

const queryOf = (id: number, question: Question): Buffer =>
  encode({ type: 'query', id, flags: RECURSION_DESIRED, questions: [question], additionals: [opt()] })

const overUdp = (server: Server, question: Question): Promise<DecodedPacket | undefined> => {
  const id = randomInt(65_536)
  const socket = createSocket(server.address.includes(':') ? 'udp6' : 'udp4')
  const { promise, resolve } = Promise.withResolvers<DecodedPacket | undefined>()
  const timer = setTimeout(() => resolve(undefined), TIMEOUT_MS)
  socket.on('error', () => resolve(undefined))
  socket.on('message', (data) => {
    const answer = parseAnswer(data, id, question)
    if (answer) resolve(answer)
  })
  // Connected: the kernel gives us what comes from that server, from a port of ours that it chose at random.
  socket.connect(server.port, server.address, () => socket.send(queryOf(id, question)))
  return promise.finally(() => {
    clearTimeout(timer)
    socket.close()
  })
}

const overTcp = (server: Server, question: Question): Promise<DecodedPacket | undefined> => {
  const id = randomInt(65_536)
  const { promise, resolve } = Promise.withResolvers<DecodedPacket | undefined>()
  const socket = createConnection(server.port, server.address)
  const chunks: Buffer[] = []
  let have = 0
  socket.setTimeout(TIMEOUT_MS, () => resolve(undefined))
  socket.on('error', () => resolve(undefined))
  socket.on('close', () => resolve(undefined))
  socket.on('data', (chunk) => {
    chunks.push(chunk)
    have += chunk.length
    const all = Buffer.concat(chunks)
    if (have < 2 || have < all.readUInt16BE(0) + 2) return
    resolve(parseAnswer(all.subarray(2, all.readUInt16BE(0) + 2), id, question))
  })
  const query = queryOf(id, question)
  const length = Buffer.alloc(2)
  length.writeUInt16BE(query.length)
  socket.end(Buffer.concat([length, query]))
  return promise.finally(() => socket.destroy())
}

/** SERVFAIL, REFUSED: another server may know better. */
const knowsNothing = ({ flags = 0 }: DecodedPacket): boolean => (flags & 0xf) === 2 || (flags & 0xf) === 5

/** Asks the servers in order, twice, over TCP where an answer is too long for UDP. Undefined when none answers. */
export const askUpstream = async (
  servers: readonly Server[],
  question: Question,
): Promise<DecodedPacket | undefined> => {
  for (let round = 0; round < ROUNDS; round++)
    for (const server of servers) {
      let answer = await overUdp(server, question)
      if (answer?.flag_tc) answer = (await overTcp(server, question)) ?? answer
      if (answer && !knowsNothing(answer)) return answer
      if (answer && server === servers.at(-1) && round === ROUNDS - 1) return answer
    }
  return undefined
}
