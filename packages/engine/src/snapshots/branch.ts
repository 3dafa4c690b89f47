import {
  type BlobHash,
  BrambleError,
  type Branch,
  type BranchesRequest,
  type BranchesResponse,
  type ExecResult,
  execRequestSchema,
  type Instance,
  type InstanceSpec,
  instanceSpecSchema,
  type RestoreRequest,
  toBrambleError,
} from '@bramble/protocol'
import type { InstanceContext } from '../instances/instances.ts'
import type { Beginning } from '../instances/open-instances.ts'
import type { SealRow } from '../store/snapshot-tables.ts'
import { insertBase } from '../store/snapshots.ts'
import { readManifest } from './content/manifest.ts'
import { type Context, timeText } from './context.ts'
import { headsOf } from './lineage.ts'
import { findSnapshot } from './registry.ts'
import { dropSeal, holdSeal, newSealName, sealingOf, sealOfSnapshot, wantsMemory } from './seals.ts'
import { findState } from './state-ref.ts'
import { signalOf } from './take.ts'

/** What a branch may have that its parent has otherwise. */
type Wishes = Pick<RestoreRequest, 'env' | 'network' | 'ttlMs' | 'idleTtlMs' | 'labels' | 'name'>

/** What branches begin as, held while they are made. */
interface Origin extends Disposable {
  readonly beginning: Beginning
  /** That of the parent. */
  readonly spec: InstanceSpec
  readonly frozenMs?: number
}

/** The parent's, as far as it is not said otherwise. A name is one instance's. */
const specFrom = (spec: InstanceSpec, wishes: Wishes): InstanceSpec => {
  const { name: _name, snapshot: _snapshot, ...rest } = spec
  return {
    ...rest,
    ...(wishes.name !== undefined && { name: wishes.name }),
    env: { ...spec.env, ...wishes.env },
    network: wishes.network ?? spec.network,
    ttlMs: wishes.ttlMs ?? spec.ttlMs,
    idleTtlMs: wishes.idleTtlMs ?? spec.idleTtlMs,
    labels: wishes.labels,
  }
}

/** `restore` of `Snapshots`. */
export const restoreSnapshot = async (
  context: Context,
  ref: string,
  request: RestoreRequest,
  instanceContext: InstanceContext,
): Promise<Instance> => {
  const signal = signalOf(context, instanceContext)
  using origin = await ofSnapshot(context, ref, instanceContext.tenant, request.memory, signal)
  const [instance] = await context.instances.createAll(
    [specFrom(origin.spec, request)],
    instanceContext,
    origin.beginning,
  )
  if (!instance)
    throw new BrambleError('internal', { detail: 'a snapshot was restored, and its instance is not there' })
  return instance
}

/** `branch` of `Snapshots`. */
export const makeBranches = async (
  context: Context,
  request: BranchesRequest,
  instanceContext: InstanceContext,
): Promise<BranchesResponse> => {
  const { commands, count = commands?.length ?? 0 } = request
  const startedMs = context.clock.monotonicMs()
  const { tenant } = instanceContext
  const signal = signalOf(context, instanceContext)
  const parent = await findState(context, request.parent, tenant)
  using origin =
    parent.kind === 'instance'
      ? await ofInstance(context, parent.id, tenant, request.memory, signal)
      : await ofSnapshot(context, parent.id, tenant, request.memory, signal)
  const specs = Array.from({ length: count }, () => specFrom(origin.spec, { ...request, name: undefined }))
  const instances = await context.instances.createAll(specs, instanceContext, origin.beginning)
  const durationMs = context.clock.monotonicMs() - startedMs
  for (const _ of instances) context.notice({ type: 'branch', durationMs })
  const { parent: from, parentKind, memory } = origin.beginning.origin
  const items = await Promise.all(
    instances.map(async (instance, index): Promise<Branch> => {
      const command = commands?.[index]
      const result = command === undefined ? undefined : await runIn(context, instance, command, tenant, signal)
      return {
        instanceId: instance.id,
        parent: from,
        parentKind,
        createdAt: instance.createdAt,
        memory,
        instance,
        ...(result && { result }),
      }
    }),
  )
  return { items, ...(origin.frozenMs !== undefined && { frozenMs: origin.frozenMs }) }
}

/** What came of its command; that there is no result is one, too: the other branches have theirs. */
const runIn = async (
  context: Context,
  { id }: Instance,
  command: string,
  tenant: string,
  signal: AbortSignal,
): Promise<ExecResult> => {
  try {
    using lease = await context.instances.use(id, tenant, { signal })
    return await lease.exec(execRequestSchema.parse({ command }), { signal, stream: false }).result
  } catch (error) {
    const message = toBrambleError(error).message
    const nothing = { stdout: '', stderr: '', encoding: 'utf8', truncated: false, execMs: 0 } as const
    return { instanceId: id, status: 'error', exitCode: null, message, ...nothing }
  }
}

/**
 * A seal of a running instance that no snapshot is made of: nothing is read, hashed or copied. It stays for as long as one of its
 * branches may be merged (`collect.ts`).
 */
export const ofInstance = async (
  context: Context,
  ref: string,
  tenant: string,
  memory: boolean | undefined,
  signal: AbortSignal,
): Promise<Origin> => {
  const name = newSealName()
  const hold = holdSeal(context, name)
  try {
    return await context.instances.seal(ref, tenant, { name, memory, signal }, async ({ sealed, ...taken }) => {
      const { runtime, image, id, spec } = taken
      const now = timeText(context.clock.now())
      const seal: SealRow = {
        name,
        runtime: runtime.name,
        tenant,
        state: name,
        memory: Number(sealed.memory),
        image_digest: image.digest,
        spec: JSON.stringify(spec),
        // Counted when somebody looks for room: it costs time.
        used_bytes: 0,
        created_at: now,
        used_at: now,
      }
      try {
        await insertBase(context.db, { seal, parents: await headsOf(context, id), head: id })
      } catch (error) {
        await dropSeal(context, sealingOf(context, runtime.name).seals, name)
        throw error
      }
      const origin = { tenant, parent: id, parentKind: 'instance', state: name, memory: sealed.memory } as const
      return {
        beginning: { runtime: runtime.name, imageDigest: image.digest, seal: name, origin },
        spec,
        frozenMs: sealed.frozenMs,
        [Symbol.dispose]: () => hold[Symbol.dispose](),
      }
    })
  } catch (error) {
    hold[Symbol.dispose]()
    throw error
  }
}

export const ofSnapshot = async (
  context: Context,
  ref: string,
  tenant: string,
  asked: boolean | undefined,
  signal: AbortSignal,
): Promise<Origin> => {
  const row = await findSnapshot(context, ref, tenant)
  const memory = wantsMemory(context, row, asked)
  const { seal, ...held } = await sealOfSnapshot(context, row, memory, signal)
  try {
    const { name, runtime, image_digest: imageDigest } = seal
    const spec = seal.spec === null ? await specOfManifest(context, row.hash as BlobHash) : parseSpec(seal.spec)
    const origin = { tenant, parent: row.hash, parentKind: 'snapshot', state: row.hash, memory } as const
    return { beginning: { runtime, imageDigest, seal: name, origin }, spec, [Symbol.dispose]: held[Symbol.dispose] }
  } catch (error) {
    held[Symbol.dispose]()
    throw error
  }
}

const parseSpec = (text: string): InstanceSpec => instanceSpecSchema.parse(JSON.parse(text))

const specOfManifest = async ({ blobs }: Context, hash: BlobHash): Promise<InstanceSpec> => {
  const { image, config } = await readManifest(blobs, hash)
  const { env, user, workdir, cpus, memoryMb, diskMb, pids, network } = config
  return instanceSpecSchema.parse({
    image: image.name ?? image.digest,
    env,
    user,
    workdir,
    resources: { cpus, memoryMb, diskMb, pids },
    network,
  })
}
