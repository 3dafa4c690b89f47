import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BrambleError, type ExecutionSpec, type ExecutionSpecInput, executionSpecSchema } from '@bramble/protocol'
import {
  type FakeDeps,
  type FakeHost,
  type FakeOptions,
  fake,
  type ImageStore,
  type LocalImage,
  makeFakeHost,
} from '@bramble/runtime'
import type { Engine, EngineEvent, EngineLimits, ExecuteContext } from './engine.ts'
import { openEngine } from './open-engine.ts'
import type { EngineNotice, OpenEngineOptions } from './options.ts'

/** An image that exists in name only: the fake runtime has the same files for every image. */
export const namedImage = (name: string, config: Partial<LocalImage['config']> = {}): LocalImage => ({
  digest: `sha256:${createHash('sha256').update(name).digest('hex')}`,
  names: [name],
  source: 'test',
  sizeBytes: 0,
  createdAt: '2026-01-01T00:00:00.000Z',
  config: { env: {}, workdir: '/', user: 'root', ...config },
  rootfs: '/nonexistent',
})

/** An image store in memory, for a runtime that reads no root filesystem. */
export const memoryImages = (...images: LocalImage[]): ImageStore => {
  const all = new Map(images.map((image) => [image.digest, image]))
  const resolve = (name: string): LocalImage => {
    const found = all.get(name) ?? [...all.values()].find((image) => image.names.includes(name))
    if (!found) throw new BrambleError('image_not_found', { detail: `there is no image ${name}` })
    return found
  }
  return {
    resolve,
    list: () => [...all.values()],
    async import(source, options) {
      const image = namedImage(options?.name ?? source.kind)
      all.set(image.digest, image)
      return image
    },
    async remove(digest, { inUse }) {
      const image = resolve(digest)
      if (inUse(image.digest)) throw new BrambleError('image_in_use', { detail: `${digest} is in use` })
      all.delete(image.digest)
    },
  }
}

export const spec = (input: ExecutionSpecInput | string | string[]): ExecutionSpec =>
  executionSpecSchema.parse(typeof input === 'string' || Array.isArray(input) ? { command: input } : input)

export const CONTEXT: ExecuteContext = { tenant: 'default', keyId: 'key_test' }

export interface TestEngine extends AsyncDisposable {
  readonly engine: Engine
  readonly host: FakeHost
  readonly notices: EngineNotice[]
  readonly directory: string
  /** Resolves when `condition` holds; it is asked after each notice. */
  until(condition: (engine: Engine) => boolean): Promise<void>
  /** Closes the engine, keeps its directory, and opens it again. */
  reopen(): Promise<TestEngine>
}

export interface TestEngineOptions {
  readonly limits?: Partial<EngineLimits>
  readonly runtime?: FakeOptions
  readonly deps?: FakeDeps
  readonly images?: ImageStore
  readonly directory?: string
  readonly engine?: Partial<OpenEngineOptions>
}

/** An engine over the fake runtime, in a directory of its own; disposing removes both. */
export const openTestEngine = async (options: TestEngineOptions = {}): Promise<TestEngine> => {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'bramble-engine-')))
  const host = options.deps?.host ?? makeFakeHost()
  const probe = await fake(options.runtime)({ ...options.deps, host })
  if (!probe.available) throw new Error(probe.reason)
  const notices: EngineNotice[] = []
  const conditions = new Set<() => void>()
  const askAll = (): void => {
    for (const ask of conditions) ask()
  }
  const engine = await openEngine({
    dataDirectory: directory,
    runtimes: [probe.runtime],
    images: options.images ?? memoryImages(namedImage('base')),
    limits: { minReady: 0, maxMemoryMb: 100_000, ...options.limits },
    onNotice: (notice) => {
      notices.push(notice)
      // The notice comes in the middle of a change: ask after it.
      if (conditions.size > 0) setImmediate(askAll)
    },
    ...options.engine,
  })
  const close = async (): Promise<void> => {
    await engine.close({ graceMs: 0 })
    await probe.runtime.close()
  }
  return {
    engine,
    host,
    notices,
    directory,
    until: (condition) =>
      new Promise((resolve) => {
        const ask = (): void => {
          if (!condition(engine)) return
          conditions.delete(ask)
          resolve()
        }
        conditions.add(ask)
        ask()
      }),
    async reopen() {
      await close()
      return await openTestEngine({ ...options, directory })
    },
    async [Symbol.asyncDispose]() {
      await close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** The events of an execution, with the bytes of each stream joined: `[stdout, stderr, other events]`. */
export const gather = async (events: AsyncIterable<EngineEvent>) => {
  const text = { stdout: '', stderr: '' }
  const others: EngineEvent[] = []
  for await (const event of events) {
    if (event.type === 'stdout' || event.type === 'stderr')
      text[event.type] += Buffer.from(event.data).toString('latin1')
    else others.push(event)
  }
  return { ...text, others, types: others.map(({ type }) => type) }
}
