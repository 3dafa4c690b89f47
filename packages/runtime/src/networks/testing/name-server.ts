import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { type Answer, type DecodedPacket, decode, encode, TRUNCATED_RESPONSE } from 'dns-packet'

/** A name server for tests, on loopback. What it does not know is NXDOMAIN. */
export interface NameServer extends AsyncDisposable {
  readonly address: string
  /** By name. */
  readonly records: Map<string, Answer[]>
  /** `A example.org`, in the order in which they came. */
  readonly asked: string[]
}

const NXDOMAIN = 3
const UDP_BYTES = 1232

export const openNameServer = async (): Promise<NameServer> => {
  const records = new Map<string, Answer[]>()
  const asked: string[] = []
  const answer = (query: DecodedPacket, udp: boolean): Buffer => {
    const [question] = query.questions ?? []
    if (!question) throw new Error('a query without a question')
    asked.push(`${question.type} ${question.name}`)
    const known = records.get(question.name)
    const answers = (known ?? []).filter((record) => record.type === question.type || record.type === 'CNAME')
    const packet = { type: 'response' as const, id: query.id, questions: [question] }
    const bytes = encode({ ...packet, flags: known ? 0 : NXDOMAIN, answers })
    return udp && bytes.length > UDP_BYTES ? encode({ ...packet, flags: TRUNCATED_RESPONSE }) : bytes
  }
  const tcp = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', (data) => {
      const bytes = answer(decode(data.subarray(2)), false)
      const length = Buffer.alloc(2)
      length.writeUInt16BE(bytes.length)
      socket.end(Buffer.concat([length, bytes]))
    })
  })
  tcp.listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  const { port } = tcp.address() as { port: number }
  const udp = createSocket('udp4', (data, from) => udp.send(answer(decode(data), true), from.port, from.address))
  udp.bind(port, '127.0.0.1')
  await once(udp, 'listening')
  return {
    address: `127.0.0.1:${port}`,
    records,
    asked,
    [Symbol.asyncDispose]: async () => {
      udp.close()
      tcp.close()
    },
  }
}
