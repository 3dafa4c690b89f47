import { request } from 'node:http'
import { Bramble } from '@bramble/sdk'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { type Row, round } from './measure.ts'

const MIB = 1024 * 1024
const LAST_EVENT = 'event: result'

const FILE_MIB = 16

/**
 * Text that costs its producer little: a file of lines, written over and over. Busybox's own `yes | head -c` takes a core
 * for 280 MB/s, and would be what is measured.
 */
const command = (mib: number): string =>
  `yes 'a line of ordinary output, as a build or a test prints it' | head -c ${FILE_MIB * MIB} > /lines; ` +
  `for i in $(seq ${mib / FILE_MIB}); do cat /lines; done`

/** Reads the server-sent events as bytes and counts the characters of `data`, without parsing JSON. */
const overSse = (node: NodeProcess, mib: number): Promise<number> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(node.url)
    const body = JSON.stringify({ command: command(mib), resources: { timeoutMs: 600_000 } })
    const headers = {
      authorization: `Bearer ${node.key}`,
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      accept: 'text/event-stream',
    }
    const sent = request({ hostname, port, method: 'POST', path: '/api/v1/execute', headers }, (response) => {
      let bytes = 0
      let tail = ''
      let ended = false
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        ended ||=
          chunk.includes(LAST_EVENT) || (tail + chunk.toString('latin1', 0, LAST_EVENT.length)).includes(LAST_EVENT)
        tail = chunk.toString('latin1', Math.max(0, chunk.length - LAST_EVENT.length))
      })
      response.on('end', () => {
        if (ended && bytes >= mib * MIB) resolve(bytes)
        else reject(new Error(`the stream ended early, after ${bytes} bytes`))
      })
      response.on('error', reject)
    })
    sent.on('error', reject)
    sent.end(body)
  })

const overSdk = async (node: NodeProcess, mib: number): Promise<number> => {
  const bramble = new Bramble({ url: node.url, apiKey: node.key })
  let characters = 0
  for await (const event of bramble.execute(command(mib)).timeoutMs(600_000).stream())
    if (event.type === 'stdout') characters += event.data.length
  if (characters !== mib * MIB) throw new Error(`${characters} characters came of ${mib} MiB`)
  return characters
}

/** 1 GiB of text on stdout, through SSE as raw bytes and through the SDK; how much the node's process grows. */
export const outputStream = async (options: { quick: boolean }): Promise<Row[]> => {
  const mib = options.quick ? 128 : 1024
  await using node = await startNodeProcess()
  await overSse(node, 16)
  await overSdk(node, 16)
  const rows: Row[] = []
  for (const [name, read] of [
    ['SSE', overSse],
    ['SDK', overSdk],
  ] as const) {
    const before = node.rssBytes()
    let peak = before
    const watch = setInterval(() => {
      peak = Math.max(peak, node.rssBytes())
    }, 50)
    const began = performance.now()
    await read(node, mib)
    const seconds = (performance.now() - began) / 1000
    clearInterval(watch)
    const rate = (mib * MIB) / 1e6 / seconds
    const grown = Math.max(0, peak - before) / 1e6
    rows.push({
      name: `${mib} MiB of stdout through ${name}`,
      figures: { megabytesPerSecond: round(rate, 0), nodeGrewMb: round(grown, 1) },
      goal: '>= 150 MB/s, < 64 MB',
      reached: rate >= 150 && grown < 64,
    })
  }
  return rows
}
