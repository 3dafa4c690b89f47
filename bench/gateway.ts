/**
 * What the gateway costs: `true` over HTTP on one kept-alive connection against the same by the engine, and 1 GiB of
 * output over server-sent events. The runtime is the one in memory, whose commands cost nearly nothing; the node is a process of
 * its own, whose memory is watched. `npm run bench -w @bramble/gateway [executions] [outputMb]`.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, type IncomingMessage, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEngine } from '@bramble/engine'
import { createMetrics, openGateway } from '@bramble/gateway'
import { executionSpecSchema } from '@bramble/protocol'
import { fake } from '@bramble/runtime'
import { images, measure, percentiles } from './measure-calls.ts'

const EXECUTIONS = Number(process.argv[process.argv[2] === 'serve' ? 3 : 2] ?? 2000)
const OUTPUT_MB = Number(process.argv[3] ?? 1024)
const MIB = 1024 * 1024

/** The node's process: opens one, measures its engine, then says how much memory it takes when asked. */
const serve = async (): Promise<void> => {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-bench-gateway-'))
  const probe = await fake()()
  if (!probe.available) throw new Error(probe.reason)
  const metrics = createMetrics({ version: 'bench' })
  const runtimes = [probe.runtime]
  const engine = await openEngine({ dataDirectory, runtimes, images, onNotice: metrics.notice })
  const gateway = await openGateway({ engine, dataDirectory, port: 0, version: 'bench', metrics })
  const spec = executionSpecSchema.parse({ command: ['true'] })
  const context = { tenant: 'default', keyId: 'none' }
  const direct = percentiles(await measure(() => engine.execute(spec, context).result, EXECUTIONS))

  let peakRss = 0
  setInterval(() => {
    peakRss = Math.max(peakRss, process.memoryUsage.rss())
  }, 20).unref()
  process.on('message', async (message) => {
    if (message === 'rss') {
      process.send?.({ rss: process.memoryUsage.rss(), peakRss })
      peakRss = 0
      return
    }
    await gateway.close({ graceMs: 0 })
    await engine.close({ graceMs: 0 })
    await rm(dataDirectory, { recursive: true, force: true })
    process.disconnect?.()
  })
  process.send?.({ url: gateway.url, key: gateway.adminKey, direct })
}

const ask = async <T>(child: ChildProcess, message: string): Promise<T> => {
  const answer = once(child, 'message')
  child.send(message)
  return (await answer)[0] as T
}

const agent = new Agent({ keepAlive: true, maxSockets: 1 })
const post = async (url: string, key: string, body: string, accept: string): Promise<IncomingMessage> => {
  const headers = {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    accept,
  }
  const sent = request(`${url}/api/v1/execute`, { method: 'POST', agent, headers })
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return response
}

const drive = async (): Promise<void> => {
  const child = fork(import.meta.filename, ['serve', String(EXECUTIONS)])
  try {
    const [node] = (await once(child, 'message')) as [
      { url: string; key: string; direct: { p50: number; p99: number } },
    ]
    const call = async (): Promise<void> => {
      const response = await post(node.url, node.key, '{"command":["true"]}', 'application/json')
      for await (const _ of response);
      if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`)
    }
    const http = percentiles(await measure(call, EXECUTIONS))
    const ms = (value: number): string => value.toFixed(3).padStart(8)
    console.log(`${'true, warm pool'.padEnd(28)}${'p50 ms'.padStart(8)}${'p99 ms'.padStart(8)}`)
    console.log(`${'engine alone'.padEnd(28)}${ms(node.direct.p50)}${ms(node.direct.p99)}`)
    console.log(`${'over HTTP, kept alive'.padEnd(28)}${ms(http.p50)}${ms(http.p99)}`)

    const bytes = OUTPUT_MB * MIB
    console.log(`\n${`${OUTPUT_MB} MiB over SSE`.padEnd(28)}${'MB/s'.padStart(8)}${'RSS +MB'.padStart(9)}`)
    const line = 'a line of text that is about as long as the lines of a usual log, or a little more'
    for (const [name, source] of [
      ['lines of text', `yes "${line}" | head -c ${bytes}`],
      ['yes', `yes | head -c ${bytes}`],
      ['/dev/zero', `head -c ${bytes} /dev/zero`],
    ] as const) {
      const { rss } = await ask<{ rss: number }>(child, 'rss')
      const body = JSON.stringify({ command: source, resources: { timeoutMs: 600_000 } })
      const began = performance.now()
      for await (const _ of await post(node.url, node.key, body, 'text/event-stream'));
      const seconds = (performance.now() - began) / 1000
      const { peakRss } = await ask<{ peakRss: number }>(child, 'rss')
      const speed = (bytes / 1e6 / seconds).toFixed(0).padStart(8)
      console.log(`${name.padEnd(28)}${speed}${((peakRss - rss) / MIB).toFixed(0).padStart(9)}`)
    }
  } finally {
    agent.destroy()
    if (child.connected) {
      child.send('close')
      await once(child, 'exit')
    }
  }
}

await (process.argv[2] === 'serve' ? serve() : drive())
