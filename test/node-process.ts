import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Probe, Runtime } from '@bramble/runtime'

const MAIN = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url))

/** A node in a process of its own, as users run it, with a fresh data directory and one kept-alive connection. */
export interface NodeProcess extends AsyncDisposable {
  readonly url: string
  readonly key: string
  readonly sshPort: number
  readonly pid: number
  readonly dataDirectory: string
  /** Sends one request on the kept-alive connection and parses the JSON answer. */
  call<T>(method: string, path: string, body?: unknown): Promise<T>
  /** A further client with a connection of its own. */
  client(): { call: NodeProcess['call']; close(): void }
  rssBytes(): number
  kill(signal: NodeJS.Signals): Promise<void>
}

const client = (url: string, key: string) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const { hostname, port } = new URL(url)
  const call = <T>(method: string, path: string, body?: unknown): Promise<T> =>
    new Promise((resolve, reject) => {
      const payload = body === undefined ? undefined : JSON.stringify(body)
      const headers = {
        authorization: `Bearer ${key}`,
        ...(payload !== undefined && {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(payload),
        }),
      }
      const sent = request({ agent, hostname, port, method, path, headers }, (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk) => chunks.push(chunk))
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString()
          if ((response.statusCode ?? 0) >= 400) reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`))
          else resolve((text === '' ? undefined : JSON.parse(text)) as T)
        })
        response.on('error', reject)
      })
      sent.on('error', reject)
      sent.end(payload)
    })
  return { call, close: () => agent.destroy() }
}

/** Why no node can run here, or undefined. Throws where `REQUIRE_DRIVERS` says that one must. */
export const canRunNode = async (
  open: (deps: { dataDirectory: string }) => Promise<Probe<Runtime>>,
  { checkpoint = false }: { checkpoint?: boolean } = {},
): Promise<string | undefined> => {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'bramble-probe-'))
  try {
    const probe = await open({ dataDirectory })
    const reason = probe.available ? whyForgetful(probe.runtime, checkpoint) : probe.reason
    if (probe.available) await probe.runtime.close()
    if (reason !== undefined && (process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(reason)
    return reason
  } finally {
    rmSync(dataDirectory, { recursive: true, force: true })
  }
}

const whyForgetful = ({ capabilities }: Runtime, checkpoint: boolean): string | undefined =>
  checkpoint && !capabilities.checkpoint ? 'this host saves no memory of sandboxes (`bramble doctor`)' : undefined

/** Starts a node on a data directory, a fresh one unless one is given, and waits until it serves. */
export const startNodeProcess = async (env: Record<string, string> = {}, directory?: string): Promise<NodeProcess> => {
  const dataDirectory = directory ?? mkdtempSync(join(tmpdir(), 'bramble-node-'))
  const child: ChildProcess = spawn(
    process.execPath,
    ['--initial-old-space-size=128', MAIN, 'up', '--json', '--port', '0', '--data-dir', dataDirectory],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } },
  )
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const announced = Promise.withResolvers<{ url: string; apiKey: string; ssh: string }>()
  let said = ''
  createInterface({ input: child.stdout as Readable }).on('line', (line) => {
    said = `${said}${line}\n`.slice(-4096)
    if (line.startsWith('{"type":"ready"')) announced.resolve(JSON.parse(line))
  })
  void exited.then(() => announced.reject(new Error(`the node ended at its start: ${said}`)))
  const { url, apiKey: key, ssh } = await announced.promise
  const first = client(url, key)
  const pid = child.pid ?? 0
  const kill = async (signal: NodeJS.Signals): Promise<void> => {
    first.close()
    child.kill(signal)
    await exited
  }
  return {
    url,
    key,
    sshPort: Number(/-p (\d+)/.exec(ssh)?.[1]),
    pid,
    dataDirectory,
    call: first.call,
    client: () => client(url, key),
    rssBytes: () => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024,
    kill,
    [Symbol.asyncDispose]: async () => {
      await kill('SIGTERM')
      rmSync(dataDirectory, { recursive: true, force: true })
    },
  }
}

interface PoolView {
  ready: number
  image: string
}

/** Prewarms the base image and waits until `count` sandboxes are ready. */
export const prewarm = async (node: NodeProcess, count: number): Promise<void> => {
  await node.call<PoolView>('POST', '/api/v1/prewarm', { image: 'base', count })
}
