import { createHash } from 'node:crypto'
import { createIdentity, generateSecretKey, type Identity } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import {
  type Commit,
  type CoordinatorFrame,
  type JobRequestInput,
  type JobResult,
  jobRequestSchema,
  type Lease,
  type NodeReport,
  nodeReportSchema,
  resultHash,
} from '@bramble/protocol'
import { DEFAULT_NETWORK, type NetworkConfig } from '../network/config.ts'
import type { Network, WorkerSession } from '../network/network.ts'
import { openWriter, type WriterOptions } from '../network/open-writer.ts'
import { memoryStore } from '../store/memory-store.ts'
import type { Store } from '../store/store.ts'

/** A network for tests: the real writer, and workers that speak to it without sockets. */

const NETWORK = `0x${'42'.repeat(32)}`
const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')

export const testIdentity = (): Identity => createIdentity(generateSecretKey(), wasmCurve())

export interface TestNetwork {
  readonly network: Network
  readonly store: Store
  readonly config: NetworkConfig
  readonly identity: Identity
}

export const openTestNetwork = async (
  options: Partial<WriterOptions> & { readonly network?: Partial<NetworkConfig> } = {},
): Promise<TestNetwork> => {
  const { network: overrides, ...more } = options
  const store = options.store ?? memoryStore({ now: options.now ?? Date.now })
  const config = { ...DEFAULT_NETWORK, network: NETWORK, version: '0.0.0', ...overrides }
  const secret = generateSecretKey()
  const identity = options.identity ?? createIdentity(secret, wasmCurve())
  const claim = await store.acquire({ name: 'test', url: 'http://127.0.0.1:1', ttlMs: 3_600_000 })
  if (!claim.held) throw new Error('someone else writes')
  const network = await openWriter({
    auditKey: secret,
    ...more,
    store,
    epoch: claim.epoch,
    config,
    identity,
  })
  return { network, store, config, identity }
}

export const jobRequest = (form: Partial<JobRequestInput> = {}) =>
  jobRequestSchema.parse({ command: 'echo hi', ...form })

export const nodeReport = (more: Partial<NodeReport> = {}): NodeReport =>
  nodeReportSchema.parse({
    ...{ version: '0', cpus: 8, memoryMb: 16_384, diskMb: 10_000, slots: 16, isolation: ['container'] },
    ...{ images: [{ name: 'base', digest: `sha256:${'ba'.repeat(32)}` }], machine: 'm', platform: 'x', speed: 100 },
    ...more,
  })

export const resultOf = (stdout: string): JobResult => {
  const content = (text: string) => ({
    ...{ encoding: 'utf8' as const, content: text, sizeBytes: Buffer.byteLength(text) },
    sha256: sha256(text) as never,
  })
  return {
    status: 'succeeded',
    exitCode: 0,
    stdout: content(stdout),
    stderr: content(''),
    truncated: false,
    outputs: {},
  }
}

/** What a worker sends for `result`. `inputs` stands for what was run. */
export const commitOf = (
  identity: Identity,
  lease: Lease,
  result: JobResult,
  inputs: unknown = lease.spec.command,
): Commit => {
  const hash = resultHash(
    {
      ...{ status: result.status, exitCode: result.exitCode, signal: result.signal },
      ...{ stdoutSha256: result.stdout.sha256, stderrSha256: result.stderr.sha256, outputs: {} },
    },
    sha256,
  )
  const [receipt] = identity.signReceipts([
    {
      ...{ network: NETWORK, job: lease.job, execution: lease.execution, token: lease.token, node: identity.id },
      ...{ inputHash: `0x${sha256(JSON.stringify(inputs))}`, resultHash: `0x${hash}` },
      ...{ cpuMs: 1, peakMemoryBytes: 1, startedAtMs: 1, finishedAtMs: 2 },
    },
  ])
  if (!receipt) throw new Error('nothing was signed')
  return { execution: lease.execution, token: lease.token, receipt, result }
}

export interface TestWorker {
  readonly identity: Identity
  readonly leases: Lease[]
  readonly frames: CoordinatorFrame[]
  session: WorkerSession
  /** Opens the session anew, with `running`. */
  reconnect(running?: { execution: Lease['execution']; token: number }[]): Promise<void>
  commit(lease: Lease, stdout: string): Promise<void>
}

let machines = 0

/** A node that joined by an invite. `answer`: what it says to a lease at once; absent, it waits for the test. */
export const joinWorker = async (
  { network }: Pick<TestNetwork, 'network'>,
  options: {
    readonly owner?: string
    readonly anchor?: boolean
    readonly report?: Partial<NodeReport>
    readonly subnet?: string
    readonly answer?: (lease: Lease) => string | undefined
  } = {},
): Promise<TestWorker> => {
  const number = ++machines
  const identity = testIdentity()
  const { owner = `owner-${number}`, anchor = false, subnet = `10.${number >> 8}.${number & 255}` } = options
  const { token } = await network.nodes.invite({ owner, anchor, labels: {}, ttlMs: 60_000, maxNodes: 1 })
  const report = nodeReport({ machine: `machine-${number}`, ...options.report })
  await network.nodes.register({
    registration: { node: identity.id, publicKey: identity.publicKey, token, report },
    subnet,
  })
  let opening: Promise<WorkerSession> | undefined
  const worker: TestWorker = {
    identity,
    leases: [],
    frames: [],
    session: undefined as never,
    reconnect: async (running = []) => {
      opening = network.session({ node: identity.id, report, running, subnet }, take)
      worker.session = await opening
    },
    // A lease may be there before the session is.
    commit: async (lease, stdout) => {
      await opening
      await worker.session.frame({ type: 'commit', items: [commitOf(identity, lease, resultOf(stdout))] })
    },
  }
  const take = (frame: CoordinatorFrame): void => {
    worker.frames.push(frame)
    if (frame.type !== 'lease') return
    for (const lease of frame.items) {
      worker.leases.push(lease)
      const stdout = options.answer?.(lease)
      if (stdout !== undefined) void worker.commit(lease, stdout).catch(() => {})
    }
  }
  await worker.reconnect()
  return worker
}

/** Resolves with the job once it has ended. */
export const ended = async ({ network }: Pick<TestNetwork, 'network'>, id: string, tenant = 'default') => {
  for await (const _event of network.jobs.events(id as never, tenant));
  return network.jobs.get(id as never, tenant)
}
