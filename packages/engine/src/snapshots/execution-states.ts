import { BrambleError, type ExecutionSpec, type InstanceSpec, type Snapshot, toBrambleError } from '@bramble/protocol'
import type { LocalImage, Runtime, Sandbox, Sealed } from '@bramble/runtime'
import type { Beginning } from '../instances/open-instances.ts'
import { ofInstance, ofSnapshot } from './branch.ts'
import type { Context } from './context.ts'
import { assertRoom, type Owner } from './keep.ts'
import { newSealName, sealingOf } from './seals.ts'
import { findState } from './state-ref.ts'
import { configOf, orDropSeal } from './take.ts'

/** The state that an execution begins as, held until it is given back. */
export interface ExecutionStart extends Disposable {
  readonly image: LocalImage
  readonly runtime: Runtime
  readonly from: { readonly seal: string; readonly memory: boolean }
  readonly state: string
  /** What it has of those that it continues where it does not say. */
  readonly defaults: Pick<InstanceSpec, 'env' | 'user' | 'workdir' | 'image'>
}

export type KeptSnapshot = Pick<Snapshot, 'id' | 'expiresAt'>

/** What executions need of snapshots. */
export interface ExecutionStates {
  /** Undefined: it begins as its image. Rejects where it would leave a snapshot, and none may be kept. */
  begin(spec: ExecutionSpec, owner: Owner, signal: AbortSignal): Promise<ExecutionStart | undefined>
  /** The snapshot that it leaves, by its mode; undefined: it leaves none. */
  keep(ended: EndedExecution): Promise<KeptSnapshot | undefined>
}

export interface EndedExecution {
  readonly id: string
  readonly spec: ExecutionSpec
  readonly owner: Owner
  readonly sandbox: Sandbox
  readonly image: LocalImage
  readonly runtime: Runtime
  readonly start: ExecutionStart | undefined
}

export const leavesSnapshot = ({ mode }: ExecutionSpec): boolean => mode === 'checkpointed' || mode === 'branched'

export const executionStatesOf = (context: Context): ExecutionStates => ({
  async begin(spec, owner, signal) {
    if (leavesSnapshot(spec)) await assertRoom(context, owner)
    const { tenant } = owner
    if (spec.mode === 'branched') {
      if (spec.parent === undefined)
        throw new BrambleError('invalid_request', { detail: 'the mode `branched` needs a `parent`' })
      const { kind, id } = await findState(context, spec.parent, tenant)
      const of = kind === 'instance' ? ofInstance : ofSnapshot
      return startOf(context, await of(context, id, tenant, undefined, signal))
    }
    if (spec.checkpoint === undefined) return undefined
    return startOf(context, await ofSnapshot(context, spec.checkpoint, tenant, undefined, signal))
  },
  keep: (ended) => keepEnded(context, ended),
})

const startOf = (
  context: Context,
  origin: Disposable & { readonly beginning: Beginning; readonly spec: InstanceSpec },
): ExecutionStart => {
  try {
    const { beginning, spec } = origin
    const { seal } = beginning
    return {
      image: context.images.resolve(beginning.imageDigest),
      runtime: sealingOf(context, beginning.runtime).runtime,
      from: { seal, memory: beginning.origin.memory },
      state: beginning.origin.state,
      defaults: spec,
      [Symbol.dispose]: () => origin[Symbol.dispose](),
    }
  } catch (error) {
    origin[Symbol.dispose]()
    throw error
  }
}

/** Every branch leaves a snapshot, whether anybody wants it or not. What was asked for stays: a name, another time to live. */
const FORK_TTL_MS = 24 * 3_600_000

/** The agent. */
const NO_PROCESSES = 1

const keepEnded = async (context: Context, ended: EndedExecution): Promise<KeptSnapshot | undefined> => {
  const { spec, owner, sandbox, image, start } = ended
  if (!leavesSnapshot(spec)) return undefined
  const sealing = sealingOf(context, sandbox.runtime)
  const { signal } = context.closing
  const sealed = await sealEnded(ended, newSealName(), signal)
  const env = { ...start?.defaults.env, ...spec.env }
  return await orDropSeal(context, sealing, {
    owner,
    sealing,
    sealed,
    image,
    imageName: start?.defaults.image ?? spec.image,
    config: configOf({ ...spec, env }, { hostname: sandbox.config.hostname ?? '' }),
    spec: null,
    origin: 'execution',
    source: ended.id,
    parents: start ? [start.state] : [],
    labels: spec.labels ?? {},
    ...(spec.mode === 'branched' && { ttlMs: FORK_TTL_MS }),
    signal,
  })
}

/** With what its command left running, where that can be saved; a branch is for its files. */
const sealEnded = async (
  { spec, sandbox, runtime }: EndedExecution,
  name: string,
  signal: AbortSignal,
): Promise<Sealed> => {
  if (!sandbox.seal) throw new BrambleError('unsupported', { detail: 'the sandbox cannot be sealed' })
  const wanted = spec.mode === 'checkpointed' && runtime.capabilities.checkpoint
  if (!wanted || (await sandbox.stats()).processes <= NO_PROCESSES)
    return await sandbox.seal({ name, memory: false, signal })
  try {
    return await sandbox.seal({ name, memory: true, signal })
  } catch (error) {
    if (toBrambleError(error).code !== 'checkpoint_refused') throw error
    return await sandbox.seal({ name, memory: false, signal })
  }
}
