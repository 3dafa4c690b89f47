/**
 * What the agent alone costs: `true` over its socket, and the throughput of standard output, with the agent as a plain
 * process (no sandbox). `node bench/agent.ts [runs]`
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { agentBinaryPath, connectAgent } from '@bramble/runtime'

const WARM_UP = 200
const STDOUT_BYTES = 2 * 1024 ** 3

const runs = Number(process.argv[2] ?? 5000)
const folder = mkdtempSync(join(tmpdir(), 'bramble-bench-'))
const socket = join(folder, 'agent.sock')
const child = spawn(agentBinaryPath(), ['--listen', socket, '--ready-fd', '3'], {
  stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
})
const ready = child.stdio[3]
if (ready instanceof Duplex) await once(ready, 'data')
const stream = connect(socket)
await once(stream, 'connect')
const agent = await connectAgent(stream)

const residentKb = (): string | undefined =>
  /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]
const quantile = (sorted: number[], q: number): string =>
  (sorted[Math.floor(sorted.length * q)] ?? Number.NaN).toFixed(3)

const time = async (argv: string[]): Promise<void> => {
  const times: number[] = []
  for (let i = 0; i < WARM_UP + runs; i++) {
    const begin = performance.now()
    for await (const event of agent.exec({ argv }))
      if (event.type === 'exit' && event.kind === 'failed') throw new Error(event.message)
    if (i >= WARM_UP) times.push(performance.now() - begin)
  }
  times.sort((a, b) => a - b)
  console.log(`${argv.join(' ').padEnd(24)} p50 ${quantile(times, 0.5)} ms   p99 ${quantile(times, 0.99)} ms`)
}

const throughput = async (): Promise<void> => {
  const begin = performance.now()
  let bytes = 0
  for await (const event of agent.exec({ argv: ['head', '-c', String(STDOUT_BYTES), '/dev/zero'] }))
    if (event.type === 'stdout') bytes += event.data.length
  const seconds = (performance.now() - begin) / 1000
  console.log(`stdout of 2 GiB          ${(bytes / 1e6 / seconds).toFixed(0)} MB/s`)
}

console.log(`agent idle               ${residentKb()} KiB resident`)
await time(['/bin/true'])
await time(['sh', '-c', 'true'])
if (existsSync('/bin/busybox')) await time(['/bin/busybox', 'true'])
await throughput()
console.log(`agent idle again         ${residentKb()} KiB resident`)
await agent.close()
await once(child, 'exit')
rmSync(folder, { recursive: true })
