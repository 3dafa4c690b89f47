import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { figuresOf, quantile, type Row, round } from '../run/measure.ts'
import { deleteInstance, openSocket, startInstance } from './instance.ts'

const READER = fileURLToPath(new URL('./flood-reader.ts', import.meta.url))
/** As fast as a person can hold a key down: the next one 5 ms after the last was shown. */
const BETWEEN_MS = 5
const KEYS = 'abcdefghijklmnopqrstuvwxyz'

/** A client that reads the flood, in a process of its own. */
const startFlood = (node: NodeProcess, id: string) => {
  const url = `${node.url.replace(/^http/, 'ws')}/api/v1/containers/${id}/stream?processes=false`
  const child = spawn(process.execPath, [READER, url, node.key], { stdio: ['ignore', 'pipe', 'inherit'] })
  let latest = 0
  const lines = createInterface({ input: child.stdout }).on('line', (line) => {
    latest = Number(line)
  })
  return {
    /** Bytes read by the next report. */
    read: async (): Promise<number> => {
      await once(lines, 'line')
      return latest
    },
    stop: async (): Promise<void> => {
      child.kill()
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    },
  }
}

/**
 * Keys typed into `cat` on a terminal over its WebSocket, each timed until it is shown, while another instance floods its
 * output to a client that reads all of it.
 */
export const terminal = async (options: { quick: boolean }): Promise<Row[]> => {
  const count = options.quick ? 200 : 1000
  await using node = await startNodeProcess()
  const quiet = await startInstance(node)
  const loud = await startInstance(node)
  const quietly = await keystrokes(count)
  const flood = startFlood(node, loud)
  await flood.read()
  const began = performance.now()
  const before = await flood.read()
  const flooded = await keystrokes(count)
  const floodMbPerSecond = ((await flood.read()) - before) / 1000 / (performance.now() - began)
  await flood.stop()
  await deleteInstance(node, loud)
  await deleteInstance(node, quiet)
  const [p50, p99] = [quantile(flooded, 0.5), quantile(flooded, 0.99)]
  return [
    { name: 'a key and its echo, nothing else going on', figures: { ...figuresOf(quietly), unit: 'ms' } },
    {
      name: 'a key and its echo, while another instance floods',
      figures: { ...figuresOf(flooded), unit: 'ms', floodMbPerSecond: round(floodMbPerSecond, 0) },
      goal: 'p50 <= 2 ms, p99 <= 10 ms',
      reached: p50 <= 2 && p99 <= 10,
    },
  ]

  async function keystrokes(total: number): Promise<number[]> {
    await using pty = await openSocket(node, `/api/v1/instances/${quiet}/pty?cols=80&rows=24&cmd=cat`)
    let shown: (() => void) | undefined
    let wanted = 0
    pty.raw.on('message', (data, binary) => {
      if (binary && (data as Buffer).includes(wanted)) shown?.()
    })
    const times: number[] = []
    for (let i = 0; i < total; i++) {
      wanted = KEYS.charCodeAt(i % KEYS.length)
      const typed = performance.now()
      await new Promise<void>((resolve) => {
        shown = resolve
        pty.send(Uint8Array.of(wanted))
      })
      times.push(performance.now() - typed)
      shown = undefined
      // The line ends before the terminal's own buffer (4,096 bytes) does.
      if (i % 1000 === 999) pty.send(Uint8Array.of(13))
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS))
    }
    return times
  }
}
