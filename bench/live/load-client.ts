import { connect } from 'node:net'

/**
 * Sends requests over HTTP/1.1, each connection its next one when the last is answered, and prints what it saw as JSON:
 * `load-client.ts HOST PORT PATH CONNECTIONS SECONDS [HEADER …]`; with `body: TEXT` among the headers, each is a POST of that. A process of its own, so that it can run in the network
 * of a sandbox, and the same client measures both ways.
 */
const [host = '127.0.0.1', port = '80', path = '/', connections = '1', seconds = '1', ...headers] =
  process.argv.slice(2)
const HEAD_END = Buffer.from('\r\n\r\n')
const body = headers
  .find((header) => header.startsWith('body:'))
  ?.slice(5)
  .trim()
const text = `${body === undefined ? 'GET' : 'POST'} ${path} HTTP/1.1\r\nhost: ${
  headers
    .find((h) => h.startsWith('host:'))
    ?.slice(5)
    .trim() ?? host
}\r\n`
const others = headers.filter((header) => !/^(host|body):/.test(header)).map((header) => `${header}\r\n`)
if (body !== undefined) others.push(`content-length: ${Buffer.byteLength(body)}\r\n`)
const request = Buffer.from(`${text}${others.join('')}\r\n${body ?? ''}`)
const times: number[] = []
const endAt = performance.now() + Number(seconds) * 1000
let failed = 0

/** Bytes of the answer that `data` begins with, or undefined while its head is not whole. */
const answerBytes = (data: Buffer): { bytes: number; close: boolean } | undefined => {
  const end = data.indexOf(HEAD_END)
  if (end < 0) return undefined
  const head = data.toString('latin1', 0, end)
  if (!head.startsWith('HTTP/1.1 200') && !head.startsWith('HTTP/1.0 200')) throw new Error(head)
  const length = /content-length: *(\d+)/i.exec(head)?.[1]
  const close = /connection: *close/i.test(head) || length === undefined
  return { bytes: length === undefined ? Number.POSITIVE_INFINITY : end + 4 + Number(length), close }
}

const one = (): Promise<void> =>
  new Promise((resolve) => {
    const again = (): void => {
      if (performance.now() >= endAt) {
        resolve()
        return
      }
      let began = performance.now()
      let rest: Buffer = Buffer.alloc(0)
      let counted = false
      const socket = connect({ host, port: Number(port), noDelay: true }, () => socket.write(request))
      const count = (): void => {
        times.push(performance.now() - began)
        counted = true
      }
      socket.on('data', (chunk) => {
        rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
        const answer = answerBytes(rest)
        if (answer === undefined || rest.length < answer.bytes || answer.close) return
        count()
        rest = rest.subarray(answer.bytes)
        if (performance.now() >= endAt) return socket.destroy()
        counted = false
        began = performance.now()
        socket.write(request)
      })
      socket.on('error', () => {
        failed++
      })
      socket.on('end', () => {
        if (!counted && rest.length > 0) count()
        socket.end()
      })
      socket.on('close', again)
    }
    again()
  })

const began = performance.now()
await Promise.all(Array.from({ length: Number(connections) }, one))
const took = (performance.now() - began) / 1000
times.sort((a, b) => a - b)
const at = (q: number): number | undefined => times[Math.min(times.length - 1, Math.floor(times.length * q))]
const { user, system } = process.cpuUsage()
const seen = { requests: times.length, failed, perSecond: times.length / took, p50: at(0.5), p99: at(0.99) }
console.log(JSON.stringify({ ...seen, tookSeconds: took, cpuSeconds: (user + system) / 1e6 }))
