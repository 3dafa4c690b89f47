// How fast the SDK reads a stream of output: `node bench/sse-parse.ts [MiB, default 1024]`. In memory (the cost of the
// client alone), then over HTTP from a server in a process of its own that only writes. Goal: 150 MB/s of output.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { Bramble, type ExecutionResult } from '@bramble/sdk'

const KINDS = {
  'lines of text': 'hello, world: a line of output as a build prints it\n',
  'UTF-8': 'héllo wörld → ✓ 日本語 ',
  'escapes (quotes, colours)': '\u001b[32m"ok"\u001b[0m \\ \t\n',
} as const

const mebibytes = Number(process.argv[2] ?? 1024)
const totalBytes = mebibytes * 1024 * 1024
const chunkBytes = 64 * 1024

const RESULT: ExecutionResult = {
  id: `exe_${'0'.repeat(26)}` as ExecutionResult['id'],
  mode: 'ephemeral',
  runtime: 'none',
  image: 'none',
  status: 'succeeded',
  exitCode: 0,
  stdout: '',
  stderr: '',
  encoding: 'utf8',
  truncated: true,
  cached: false,
  outputs: {},
  inputHash: '',
  resultHash: '',
  usage: { cpuMs: 0, peakMemoryBytes: 0, diskBytes: 0, egressBytes: 0 },
  timings: { queuedMs: 0, startMs: 0, execMs: 0, totalMs: 0 },
  startedAt: '',
  finishedAt: '',
}

/** One event of about `chunkBytes` of output, as the gateway writes it, and how many bytes of output it holds. */
const eventOf = (kind: string): { event: Buffer; bytes: number } => {
  const text = KINDS[kind as keyof typeof KINDS] ?? kind
  const data = text.repeat(Math.floor(chunkBytes / Buffer.byteLength(text)))
  const event = Buffer.from(`id: 1\nevent: stdout\ndata: ${JSON.stringify({ type: 'stdout', data })}\n\n`)
  return { event, bytes: Buffer.byteLength(data) }
}
const lastEvent = Buffer.from(`event: result\ndata: ${JSON.stringify({ type: 'result', result: RESULT })}\n\n`)

const base64 = (): { event: Buffer; bytes: number } => {
  const data = Buffer.alloc(chunkBytes, 0xff).toString('base64')
  const event = Buffer.from(`event: stdout\ndata: ${JSON.stringify({ type: 'stdout', encoding: 'base64', data })}\n\n`)
  return { event, bytes: chunkBytes }
}
const sampleOf = (kind: string) => (kind === 'bytes (base64)' ? base64() : eventOf(kind))

/** The stream cut into pieces of 64 KiB, which never fit the events: what sockets do. */
const inMemory = (kind: string): typeof fetch => {
  const { event, bytes } = sampleOf(kind)
  const repeated = Buffer.concat(Array.from({ length: 64 }, () => event))
  return async () => {
    let left = Math.ceil(totalBytes / bytes / 64)
    let at = 0
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          if (left === 0) {
            controller.enqueue(lastEvent)
            controller.close()
            return
          }
          controller.enqueue(repeated.subarray(at, at + 65_536))
          at += 65_536
          if (at >= repeated.length) {
            at = 0
            left--
          }
        },
      },
      { highWaterMark: 0 },
    )
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  }
}

const measure = async (name: string, bramble: Bramble): Promise<void> => {
  globalThis.gc?.()
  const before = process.memoryUsage().rss
  let peak = before
  let characters = 0
  let events = 0
  const began = performance.now()
  for await (const event of bramble.stream('bench')) {
    if (event.type !== 'stdout') continue
    characters += event.data.length
    if (events++ % 256 === 0) peak = Math.max(peak, process.memoryUsage.rss())
  }
  const seconds = (performance.now() - began) / 1000
  if (characters === 0) throw new Error('no output came')
  const rate = (totalBytes / 1e6 / seconds).toFixed(0)
  console.log(`${name.padEnd(44)} ${rate.padStart(6)} MB/s   +${((peak - before) / 1048576).toFixed(0)} MiB`)
}

/** The writing side, in a process of its own: `node bench/sse-parse.ts <MiB> serve`. */
const serve = (): void => {
  const server = createServer((request, response) => {
    const { event, bytes } = sampleOf(decodeURIComponent(request.headers.authorization?.slice(7) ?? ''))
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    let left = Math.ceil(totalBytes / bytes)
    const write = (): void => {
      while (left-- > 0) if (!response.write(event)) return void response.once('drain', write)
      response.end(lastEvent)
    }
    write()
  })
  server.listen(0, '127.0.0.1', () => {
    const address = server.address()
    console.log(typeof address === 'object' ? address?.port : '')
  })
}

const startServer = async (): Promise<{ child: ChildProcess; url: string }> => {
  const child = spawn(process.execPath, [import.meta.filename, String(mebibytes), 'serve'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [port] = await once(child.stdout, 'data')
  return { child, url: `http://127.0.0.1:${String(port).trim()}` }
}

if (process.argv[3] === 'serve') serve()
else {
  const kinds = [...Object.keys(KINDS), 'bytes (base64)']
  console.log(`${mebibytes} MiB of output in events of 64 KiB`)
  for (const kind of kinds)
    await measure(`in memory: ${kind}`, new Bramble({ url: 'http://bench', apiKey: 'k', fetch: inMemory(kind) }))
  const { child, url } = await startServer()
  for (const kind of kinds) await measure(`over HTTP: ${kind}`, new Bramble({ url, apiKey: encodeURIComponent(kind) }))
  child.kill()
}
