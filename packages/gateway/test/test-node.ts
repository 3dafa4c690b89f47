import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Engine, openEngine } from '@bramble/engine'
import type { ExecutionEvent, KeyRequest, NewApiKey, Problem } from '@bramble/protocol'
import { type FakeOptions, fake, openImageStore } from '@bramble/runtime'
import { createMetrics, type Gateway, type GatewayOptions, openGateway } from '../src/index.ts'

export interface TestNodeOptions {
  readonly gateway?: Partial<GatewayOptions>
  readonly fake?: FakeOptions
  readonly maxRunning?: number
}

export interface TestNode extends AsyncDisposable {
  readonly directory: string
  readonly engine: Engine
  readonly gateway: Gateway
  readonly url: string
  readonly key: string
  /** With the admin key; a body is sent as JSON. */
  fetch(path: string, init?: RequestInit & { json?: unknown; key?: string }): Promise<Response>
  newKey(request?: Partial<KeyRequest>): Promise<NewApiKey>
  /** Opens another gateway over the same engine and data. */
  reopen(options?: Partial<GatewayOptions>): Promise<Gateway>
}

/** A rootfs archive with one file: the fake runs its own programs in any image. */
export const makeRootfsTar = async (directory: string, content: string): Promise<string> => {
  const rootfs = await mkdtemp(join(directory, 'rootfs-'))
  await mkdir(join(rootfs, 'etc'))
  await writeFile(join(rootfs, 'etc/content'), content)
  const path = `${rootfs}.tar`
  await promisify(execFile)('tar', ['-C', rootfs, '-cf', path, '.'])
  return path
}

/** A whole node with the runtime in memory: real engine, real images, real HTTP on a free port. */
export const openTestNode = async (options: TestNodeOptions = {}): Promise<TestNode> => {
  await using undo = new AsyncDisposableStack()
  const directory = await mkdtemp(join(tmpdir(), 'bramble-gateway-'))
  undo.defer(() => rm(directory, { recursive: true, force: true }))
  const probe = await fake(options.fake)()
  if (!probe.available) throw new Error(probe.reason)
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(directory, 'images') })
  const tar = await makeRootfsTar(directory, 'base')
  await images.import({ kind: 'rootfsTar', path: tar }, { name: 'base' })
  const metrics = createMetrics({ version: '1.2.3' })
  const engine = await openEngine({
    dataDirectory: directory,
    runtimes: [runtime],
    images,
    onNotice: metrics.notice,
    limits: { minReady: 0, ...(options.maxRunning !== undefined && { maxRunning: options.maxRunning }) },
  })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const reopen = (changes: Partial<GatewayOptions> = {}) =>
    openGateway({
      engine,
      dataDirectory: directory,
      port: 0,
      version: '1.2.3',
      metrics,
      ...options.gateway,
      ...changes,
    })
  const gateway = await reopen()
  undo.defer(() => gateway.close({ graceMs: 0 }))
  const key = gateway.adminKey ?? ''
  const held = undo.move()

  const node: TestNode = {
    directory,
    engine,
    gateway,
    url: gateway.url,
    key,
    reopen,
    fetch: (path, { json, key: otherKey, ...init } = {}) =>
      fetch(gateway.url + path, {
        ...init,
        ...(json !== undefined && { method: init.method ?? 'POST', body: JSON.stringify(json) }),
        headers: {
          ...(gateway.adminKey !== undefined && { authorization: `Bearer ${otherKey ?? key}` }),
          ...(json !== undefined && { 'content-type': 'application/json' }),
          ...(init.headers as Record<string, string> | undefined),
        },
      }),
    newKey: async (request = {}) => {
      const response = await node.fetch('/api/v1/keys', { json: { name: 'test', ...request } })
      return (await response.json()) as NewApiKey
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
  return node
}

export interface SseMessage {
  readonly id: string
  readonly event: string
  readonly data: unknown
}

/** Reads server-sent events as they come. */
export async function* readEvents(response: Response): AsyncGenerator<SseMessage> {
  let text = ''
  const decoder = new TextDecoder()
  for await (const bytes of response.body ?? []) {
    text += decoder.decode(bytes as Uint8Array, { stream: true })
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const block = text.slice(0, end)
      text = text.slice(end + 2)
      const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/s)))
      if ('data' in fields) yield { id: fields.id ?? '', event: fields.event ?? '', data: JSON.parse(fields.data) }
    }
  }
}

export const allEvents = async (response: Response): Promise<SseMessage[]> => {
  const messages: SseMessage[] = []
  for await (const message of readEvents(response)) messages.push(message)
  return messages
}

/** The bytes that the output events of a stream carry. */
export const outputOf = (messages: readonly SseMessage[], type: 'stdout' | 'stderr'): Buffer =>
  Buffer.concat(
    messages.flatMap(({ data }) => {
      const event = data as ExecutionEvent
      return event.type === type ? [Buffer.from(event.data, event.encoding ?? 'utf8')] : []
    }),
  )

export const problemOf = async (response: Response): Promise<Problem> => (await response.json()) as Problem
