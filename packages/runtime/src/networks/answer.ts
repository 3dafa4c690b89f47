import {
  type Answer,
  type DecodedPacket,
  decode,
  encode,
  type Question,
  RECURSION_AVAILABLE,
  RECURSION_DESIRED,
  type StringAnswer,
  TRUNCATED_RESPONSE,
} from 'dns-packet'
import { canonicalName } from './policy.ts'
import { opt, UDP_PAYLOAD_BYTES } from './upstream.ts'

/** Codes of RFC 1035 and 6895, as the header has them. */
export const RCODES = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4 } as const
export type Rcode = (typeof RCODES)[keyof typeof RCODES]

const OPCODE_QUERY = 0
const opcodeOf = ({ flags = 0 }: DecodedPacket): number => (flags >> 11) & 0xf
export const rcodeOf = ({ flags = 0 }: DecodedPacket): number => flags & 0xf

/** Passed on for names that the policy permits. Others (ANY, HTTPS with its addresses, zone transfers) have no answer. */
const PASSED_TYPES: ReadonlySet<string> = new Set([
  'A',
  'CNAME',
  'TXT',
  'MX',
  'SRV',
  'NS',
  'SOA',
  'PTR',
  'CAA',
  'NAPTR',
])
const MAX_ANSWERS = 64
const MAX_TTL_S = 3600
/** RFC 1035; what a sandbox may take beyond is in its OPT record. */
const PLAIN_UDP_BYTES = 512
const MAX_TCP_BYTES = 16 * 1024

export interface Query {
  readonly id: number
  readonly question: Question
  /** The question's name, as it is compared. */
  readonly name: string
  /** The largest UDP answer that the sandbox takes. */
  readonly udpBytes: number
  readonly edns: boolean
}

/** A query that is one. Undefined: not worth an answer. */
export const parseQuery = (data: Buffer): Query | { id: number; rcode: Rcode } | undefined => {
  let packet: DecodedPacket
  try {
    packet = decode(data)
  } catch {
    return undefined
  }
  const [question] = packet.questions ?? []
  const id = packet.id ?? 0
  if (packet.type !== 'query') return undefined
  if (opcodeOf(packet) !== OPCODE_QUERY) return { id, rcode: RCODES.NOTIMP }
  if (packet.questions?.length !== 1 || question === undefined || question.class !== 'IN')
    return { id, rcode: RCODES.FORMERR }
  const name = canonicalName(question.name)
  if (name === undefined) return { id, rcode: RCODES.NXDOMAIN }
  const option = packet.additionals?.find((record) => record.type === 'OPT')
  const wanted = option?.type === 'OPT' ? option.udpPayloadSize : PLAIN_UDP_BYTES
  const udpBytes = Math.min(UDP_PAYLOAD_BYTES, Math.max(PLAIN_UDP_BYTES, wanted))
  return { id, question: { ...question, class: 'IN' }, name, udpBytes, edns: option !== undefined }
}

export const isPassed = (type: string): boolean => PASSED_TYPES.has(type)

export const isAddress = (answer: Answer): answer is StringAnswer => answer.type === 'A'

/** Of an upstream answer, what answers the question: records of its type, and the aliases that lead to them. */
export const relevant = (packet: DecodedPacket, type: string): Answer[] =>
  (packet.answers ?? [])
    .filter((answer) => (answer.type === type || answer.type === 'CNAME') && answer.type !== 'OPT')
    .slice(0, MAX_ANSWERS)
    .map((answer) => (answer.type === 'OPT' ? answer : { ...answer, ttl: Math.min(MAX_TTL_S, answer.ttl ?? 0) }))

/** Writes the answer to `query`. One that is too long for UDP says so and is empty: the sandbox asks again over TCP. */
export const writeAnswer = (
  query: Query | { id: number },
  rcode: Rcode,
  answers: readonly Answer[],
  transport: 'udp' | 'tcp',
): Buffer => {
  const write = (flags: number, kept: readonly Answer[]): Buffer =>
    encode({
      type: 'response',
      id: query.id,
      flags: RECURSION_DESIRED | RECURSION_AVAILABLE | flags,
      ...('question' in query && { questions: [query.question] }),
      answers: [...kept],
      ...('edns' in query && query.edns && { additionals: [opt()] }),
    })
  const bytes = write(rcode, answers)
  const room = transport === 'tcp' ? MAX_TCP_BYTES : 'udpBytes' in query ? query.udpBytes : PLAIN_UDP_BYTES
  return bytes.length <= room ? bytes : write(rcode | TRUNCATED_RESPONSE, [])
}
