import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { BrambleError } from '@bramble/protocol'

/** Links wait for the kernel's one lock on them, which a hundred namespaces that end together can hold for seconds. */
const ANSWER_TIMEOUT_MS = 60_000

/** The program `launcher/networks`, as a process: its own descriptors are all that holds a network nobody runs in. */
export interface NetworkTool {
  readonly pid: number
  /** Asks for `operation`. Requests are done one after another. */
  ask(operation: string, ...words: string[]): Promise<string>
  readonly closed: Promise<void>
  close(): Promise<void>
}

export const networkToolPath = (): string => fileURLToPath(new URL('../../launcher/build/networks', import.meta.url))

const failed = (detail: string): BrambleError => new BrambleError('sandbox_failed', { detail })

export const openNetworkTool = async (): Promise<NetworkTool> => {
  const binary = networkToolPath()
  if (!existsSync(binary))
    throw new BrambleError('unsupported', { detail: `${binary} is not built: run \`./bramble setup\`` })
  // A process group of its own: a Ctrl-C at the node's terminal is not for it.
  const child: ChildProcess = spawn(binary, [], { stdio: ['pipe', 'pipe', 'ignore'], env: {}, detached: true })
  const { stdin, stdout } = child as ChildProcess & { stdin: Writable; stdout: Readable }
  const waiting = new Map<string, PromiseWithResolvers<string> & { timer: NodeJS.Timeout }>()
  const opened = Promise.withResolvers<void>()
  const closed = Promise.withResolvers<void>()
  let tags = 0
  let over = false
  let complaint = 'the networks program ended'
  const end = (): void => {
    if (over) return
    over = true
    opened.reject(failed(complaint))
    for (const waiter of waiting.values()) {
      clearTimeout(waiter.timer)
      waiter.reject(failed(complaint))
    }
    waiting.clear()
    closed.resolve()
  }
  stdin.on('error', () => {})
  child.on('error', (error) => {
    complaint = error.message
    end()
  })
  child.on('close', end)
  createInterface({ input: stdout }).on('line', (line) => {
    const [tag = '', kind, text = ''] = line.split('\t')
    if (tag === '' && kind === 'open') opened.resolve()
    else if (tag === '') complaint = text
    const waiter = waiting.get(tag)
    if (!waiter) return
    waiting.delete(tag)
    clearTimeout(waiter.timer)
    if (kind === 'ok') waiter.resolve(text)
    else waiter.reject(failed(text))
  })
  const ask = (operation: string, ...words: string[]): Promise<string> => {
    if (over) return Promise.reject(failed(complaint))
    const tag = String(++tags)
    const timer = setTimeout(() => {
      complaint = `no answer to \`${operation}\` of a network within ${ANSWER_TIMEOUT_MS} ms`
      child.kill('SIGKILL')
    }, ANSWER_TIMEOUT_MS)
    timer.unref()
    const waiter = { ...Promise.withResolvers<string>(), timer }
    waiting.set(tag, waiter)
    stdin.write(`${[tag, operation, ...words].join('\t')}\n`)
    return waiter.promise
  }
  await opened.promise
  return {
    pid: child.pid ?? 0,
    ask,
    closed: closed.promise,
    close: () => {
      stdin.end()
      return closed.promise
    },
  }
}
