import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BlobStore, memoryStore } from '@bramble/blobs'
import {
  branchesRequestSchema,
  type ExecRequestInput,
  type ExecResult,
  execRequestSchema,
  type InstanceSpecInput,
  instanceSnapshotRequestSchema,
  instanceSpecSchema,
  mergeRequestSchema,
  restoreRequestSchema,
  type SnapshotRequestInput,
} from '@bramble/protocol'
import { type FakeHost, makeFakeHost } from '@bramble/runtime'
import { onTestFinished } from 'vitest'
import type { Engine } from '../engine.ts'
import type { InstanceContext } from '../instances/instances.ts'
import type { OpenEngineOptions } from '../options.ts'
import { memoryImages, namedImage, openTestEngine, type TestEngine, type TestEngineOptions } from '../testing.ts'

export const OWNER = { tenant: 'acme', keyId: 'key_test' }

/** An engine over the fake runtime, whose store others may share. */
export interface TestNode extends TestEngine {
  readonly host: FakeHost
  readonly blobs: BlobStore
}

export interface TestNodeOptions extends TestEngineOptions {
  readonly blobs?: BlobStore
  /** The memory of one host's sandboxes may run on another of the same kind. */
  readonly like?: FakeHost
}

export const openTestNode = async ({ blobs, like, ...options }: TestNodeOptions = {}): Promise<TestNode> => {
  const store = blobs ?? memoryStore()
  const host = options.deps?.host ?? makeFakeHost(like)
  const engine: Partial<OpenEngineOptions> = { ...options.engine, blobs: store }
  // A merge looks into the image: this one has nothing that a test changes.
  const rootfs = await makeTestDirectory()
  const images = memoryImages({ ...namedImage('base'), rootfs: rootfs.path })
  const node = await openTestEngine({ images, ...options, deps: { ...options.deps, host }, engine })
  return Object.assign(node, {
    blobs: store,
    async [Symbol.asyncDispose]() {
      await node.engine.close({ graceMs: 0 })
      await rootfs[Symbol.asyncDispose]()
      await rm(node.directory, { recursive: true, force: true })
    },
  })
}

/** One that is closed when the test has ended. */
export const openForTest = async (options: TestNodeOptions = {}): Promise<TestNode> => {
  const node = await openTestNode(options)
  onTestFinished(() => node[Symbol.asyncDispose]())
  return node
}

export const makeTestDirectory = async (): Promise<{ path: string } & AsyncDisposable> => {
  const path = await mkdtemp(join(tmpdir(), 'bramble-snapshots-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

export const make = (engine: Engine, spec: InstanceSpecInput = {}, owner = OWNER) =>
  engine.instances.create(instanceSpecSchema.parse(spec), owner)

export const take = (engine: Engine, ref: string, request: SnapshotRequestInput = {}, owner = OWNER) =>
  engine.snapshots.take(ref, instanceSnapshotRequestSchema.parse(request), owner)

export const restore = (
  engine: Engine,
  ref: string,
  request: Parameters<typeof restoreRequestSchema.parse>[0] = {},
  owner: InstanceContext = OWNER,
) => engine.snapshots.restore(ref, restoreRequestSchema.parse(request), owner)

export const branch = (engine: Engine, request: Parameters<typeof branchesRequestSchema.parse>[0], owner = OWNER) =>
  engine.snapshots.branch(branchesRequestSchema.parse(request), owner)

export const merge = (engine: Engine, request: Parameters<typeof mergeRequestSchema.parse>[0], owner = OWNER) =>
  engine.snapshots.merge(mergeRequestSchema.parse(request), owner)

/** Runs a command to its end. */
export const sh = async (
  engine: Engine,
  ref: string,
  command: ExecRequestInput['command'],
  owner = OWNER,
): Promise<ExecResult> => {
  using lease = await engine.instances.use(ref, owner.tenant)
  const { signal } = new AbortController()
  return await lease.exec(execRequestSchema.parse({ command }), { signal, stream: false }).result
}

export const write = async (engine: Engine, ref: string, path: string, text: string, owner = OWNER): Promise<void> => {
  const { status, stderr } = await sh(engine, ref, `printf %s '${text}' > ${path}`, owner)
  if (status !== 'succeeded') throw new Error(`${path} could not be written: ${stderr}`)
}

export const read = async (engine: Engine, ref: string, path: string, owner = OWNER): Promise<string | undefined> => {
  const { status, stdout } = await sh(engine, ref, `cat ${path}`, owner)
  return status === 'succeeded' ? stdout : undefined
}

/** A process that keeps in memory what it was told; its state is nowhere else. */
export const startNotes = async (engine: Engine, ref: string, owner = OWNER): Promise<void> => {
  using lease = await engine.instances.use(ref, owner.tenant)
  const command = 'all=; while read line; do all=$all$line; echo $all; done'
  lease.stream.start({ type: 'exec', id: 'notes', command, env: {}, stdin: true })
}

/** Tells it something; resolves with all that it was told. */
export const note = async (engine: Engine, ref: string, text: string, owner = OWNER): Promise<string> => {
  using lease = await engine.instances.use(ref, owner.tenant)
  const { stream } = lease
  const events = stream.read({ since: stream.seq, only: 'notes', signal: AbortSignal.timeout(10_000) })
  const command = stream.commands.get('notes')
  if (!command) throw new Error('nobody takes notes')
  void command.write(Buffer.from(`${text}\n`))
  for await (const entry of events) {
    if (!('event' in entry)) continue
    if (entry.event.type === 'stdout') return entry.event.data.toString().trim()
    if (entry.event.type === 'exit') break
  }
  throw new Error('it said nothing')
}
