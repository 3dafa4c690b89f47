import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { buffer } from 'node:stream/consumers'
import type { Instance, InstanceSpecInput, KeyRequest, NewApiKey, Problem } from '@bramble/protocol'
import { oci } from '@bramble/runtime'
import { launcherOf } from '@bramble/runtime/testing'
import { expect } from 'vitest'
import { leftoversOf, until } from './leftovers.ts'
import { canRunNode, type NodeProcess, startNodeProcess } from './node-process.ts'

export interface AskOptions {
  /** `''`: none. Default the admin's. */
  readonly key?: string
  readonly json?: unknown
  readonly body?: Uint8Array | string
  readonly headers?: Record<string, string>
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
  readonly text: string
  /** The code of a problem document; '' where the answer is none. */
  readonly code: string
  json<T>(): T
}

/** A node in a process of its own, for tests that stop, kill and start it again on its data directory. */
export interface LiveNode extends AsyncDisposable {
  readonly url: string
  readonly port: number
  readonly sshPort: number
  readonly key: string
  readonly dataDirectory: string
  readonly process: NodeProcess
  /** One request as it stands, on a connection of its own: `fetch` would tidy its path. */
  ask(method: string, path: string, options?: AskOptions): Promise<Answer>
  newKey(request: Partial<KeyRequest>): Promise<NewApiKey>
  start(spec?: InstanceSpecInput, key?: string): Promise<Instance>
  /** What a command in an instance prints; throws when it fails. */
  sh(instance: string, command: string, key?: string): Promise<string>
  kill(): Promise<void>
  /** Starts it again after `kill`, or after `stop`. */
  again(): Promise<void>
}

const ENVIRONMENT = { BRAMBLE_MAX_POOLED: '0', BRAMBLE_SHUTDOWN_GRACE_MS: '0', BRAMBLE_LOG_LEVEL: 'warn' }

export const ask = async (
  url: string,
  method: string,
  path: string,
  { key = '', json, body, headers = {} }: AskOptions = {},
): Promise<Answer> => {
  const content = json === undefined ? body : JSON.stringify(json)
  const { hostname, port } = new URL(url)
  const sent = request({
    hostname,
    port,
    method,
    path,
    agent: false,
    headers: {
      ...(key !== '' && { authorization: `Bearer ${key}` }),
      ...(json !== undefined && { 'content-type': 'application/json' }),
      ...(content !== undefined && { 'content-length': Buffer.byteLength(content) }),
      ...headers,
    },
  })
  const answered = once(sent, 'response') as Promise<[IncomingMessage]>
  // A node that answers before it has all of the body closes the connection.
  sent.on('error', () => {})
  sent.end(content)
  const [response] = await answered
  const bytes = await buffer(response)
  const text = bytes.toString()
  const isProblem = response.headers['content-type']?.startsWith('application/problem+json') === true
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    body: bytes,
    text,
    code: isProblem && text !== '' ? (JSON.parse(text) as Problem).code : '',
    json: <T>() => JSON.parse(text) as T,
  }
}

export interface LiveNodeOptions {
  /** Of its process, beside what all of them have. */
  readonly env?: Record<string, string>
  /** Default a fresh one. */
  readonly directory?: string
  /** Only a host that saves memory has such a node. */
  readonly checkpoint?: boolean
}

/** A live node on a fresh data directory, or why this host has none. */
export const openLiveNode = async (options: LiveNodeOptions = {}): Promise<LiveNode | { skip: string }> => {
  const skip = await canRunNode(oci(), options)
  if (skip !== undefined) return { skip }
  const environment = { ...ENVIRONMENT, ...options.env }
  let current = await startNodeProcess(environment, options.directory)
  const { dataDirectory } = current
  const keys = new Set([current.key])

  const ok = (answer: Answer): Answer => {
    if (answer.status < 400) return answer
    throw new Error(`${answer.status} ${answer.text}`)
  }
  const node: LiveNode = {
    get url() {
      return current.url
    },
    get port() {
      return Number(new URL(current.url).port)
    },
    get sshPort() {
      return current.sshPort
    },
    get key() {
      return current.key
    },
    get process() {
      return current
    },
    dataDirectory,
    ask: (method, path, options = {}) => ask(current.url, method, path, { key: current.key, ...options }),
    async newKey(wish) {
      const made = ok(await node.ask('POST', '/api/v1/keys', { json: { name: 'test', ...wish } })).json<NewApiKey>()
      if (made.scopes.includes('execute')) keys.add(made.key)
      return made
    },
    start: async (spec = {}, key = current.key) =>
      ok(await node.ask('POST', '/api/v1/instances', { json: spec, key })).json(),
    async sh(instance, command, key = current.key) {
      const answer = ok(await node.ask('POST', `/api/v1/instances/${instance}/exec`, { json: { command }, key }))
      const { exitCode, stdout, stderr } = answer.json<{ exitCode: number; stdout: string; stderr: string }>()
      if (exitCode !== 0) throw new Error(`${command}: ${exitCode} ${stderr}`)
      return stdout
    },
    kill: () => current.kill('SIGKILL'),
    async again() {
      current = await startNodeProcess(environment, dataDirectory)
    },
    async [Symbol.asyncDispose]() {
      try {
        for (const key of keys) await removeInstances(node, key)
        await current.kill('SIGTERM')
        await until('nothing of the node is left', async () => (await leftoversOf(dataDirectory)).length === 0).catch(
          async () => expect(await leftoversOf(dataDirectory)).toEqual([]),
        )
      } finally {
        // Of a test that failed.
        const launcher = launcherOf(dataDirectory)
        await current.kill('SIGKILL')
        if (launcher !== undefined) process.kill(launcher, 'SIGTERM')
        rmSync(dataDirectory, { recursive: true, force: true })
      }
    },
  }
  return node
}

const removeInstances = async (node: LiveNode, key: string): Promise<void> => {
  for (;;) {
    const { items } = (await node.ask('GET', '/api/v1/instances?limit=500', { key })).json<{ items?: Instance[] }>()
    if (items === undefined || items.length === 0) return
    for (const { id } of items) await node.ask('DELETE', `/api/v1/instances/${id}`, { key })
  }
}
